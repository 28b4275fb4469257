"""What a benchmark is to reach, and whether it does."""

from collections.abc import Callable
from typing import Any


def invariant(rows: Callable[[list[Any]], Any], items: list[Any]) -> tuple[str, bool]:
    """Whether each item gives the same bits alone, in any order, and with one thread and two."""
    import numpy as np
    import torch

    import qindex

    together = rows(items)
    checks = {"alone": all(np.array_equal(rows([item])[0], row) for item, row in zip(items, together, strict=True))}
    checks["order"] = np.array_equal(rows(items[::-1])[::-1], together)
    qindex.set_threads(2)
    torch.set_num_threads(2)
    checks["threads"] = np.array_equal(rows(items), together)
    qindex.set_threads(1)
    torch.set_num_threads(1)
    failed = [name for name, passed in checks.items() if not passed]
    return (f"not equal: {', '.join(failed)}" if failed else f"equal for {len(items)}"), not failed


def bar(what: str, wanted: str, found: str, passed: bool) -> dict[str, Any]:
    print(f"  {'pass' if passed else 'FAIL'}: {what}: {found} (wanted {wanted})", flush=True)
    return {"what": what, "wanted": wanted, "found": found, "passed": bool(passed)}
