"""The tables of results/gpu.json."""

from typing import Any

from table_text import measured, table


def topk(result: dict[str, Any]) -> str:
    settings = result["settings"]
    rows = []
    for row in result["topk"]:
        torch_ms = row["torch_ms"]["bf16 + topk"]
        rows.append(
            (
                _codes(row),
                f"{row['batch']:,}",
                f"{row['ms']:.2f}",
                f"{row['queries_per_s']:,}",
                f"{row['share_of_copy']:.0%}",
                f"{torch_ms:.2f}",
                f"{torch_ms / row['ms']:.1f}",
            )
        )
    return table(
        ("codes", "queries", "ms", "queries/s", "of copy bandwidth", "torch, ms", "its time by ours"),
        rows,
        f"The best {settings['k']} of {settings['rows']:,} random vectors of {settings['dim']} dimensions, from NumPy "
        "queries to NumPy answers. The share is that of the codes' bytes, read once. torch multiplies bfloat16 "
        "vectors and takes `torch.topk`, whose scores are not exact. " + _on(result),
    )


def linear(result: dict[str, Any]) -> str:
    rows = []
    for row in result["linear"]:
        others = {name: ms for name, ms in row["torch_ms"].items() if ms is not None}
        rows.append(
            (
                _codes(row),
                row["activations"],
                f"{row['tokens']:,}",
                f"{row['ms'] * 1e3:.0f}",
                f"{row['relative_error']:.1e}",
                ", ".join(f"{name} {ms * 1e3:.0f}" for name, ms in others.items()),
            )
        )
    n, k = result["settings"]["layer"]
    return table(
        ("codes", "activations", "tokens", "µs", "relative error", "torch, µs"),
        rows,
        f"{n:,} x {k:,} weights, which rotate through memory; float32 in and out. torch takes bfloat16, int8 or float8 "
        "activations as they are. Each call is waited for, so that tens of microseconds of a time are the launches'. "
        + _on(result),
    )


def _codes(row: dict[str, Any]) -> str:
    return f"{row['format']}, blocks of {row['block']}" if row["block"] else str(row["format"])


def _on(result: dict[str, Any]) -> str:
    environment = result["environment"]
    packages = environment["packages"]
    return (
        f"{environment['gpu']}, a copy on which moves {result['copy_gb_per_s']:,.0f} GB/s; CUDA {environment['cuda']}, "
        f"triton {packages['triton']}. {measured(environment)}"
    )
