"""Commands for the machine: warmup, doctor."""

from __future__ import annotations

import textwrap
import time

from qindex.cli.app import app


@app.command()
def warmup() -> None:
    """Compile the kernels for this machine now, so that no search has to."""
    from qindex import kernels

    start = time.perf_counter()
    kernels.warmup()
    print(f"kernels ready after {time.perf_counter() - start:.1f} s")


@app.command()
def doctor() -> None:
    """Print which kernels this machine gets, and check them against NumPy."""
    from qindex import kernels
    from qindex.evaluate.doctor import checks

    for key, value in kernels.machine().items():
        print(textwrap.fill(value, 100, initial_indent=f"{key:15} ", subsequent_indent=" " * 16))
    start = time.perf_counter()
    results = dict(checks())
    wrong = [name for name, agrees in results.items() if not agrees]
    seconds = time.perf_counter() - start
    print(f"{'self-check':15} {len(results) - len(wrong)} of {len(results)} agree with NumPy, in {seconds:.1f} s")
    if wrong:
        raise ValueError(
            f"kernels for {', '.join(wrong)} are wrong here; QINDEX_KERNELS=reference works, please report it"
        )
