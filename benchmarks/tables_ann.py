"""The tables of results/ann.json."""

from typing import Any

from table_text import code, measured, table

LEVELS = ("0.90", "0.95", "0.99")


def short(result: dict[str, Any]) -> str:
    """The fastest of each library at each recall: graphs, then inverted lists."""
    rows = []
    for name in (section for section in ("graphs", "lists") if section in result):
        by_library: dict[str, list[dict[str, Any]]] = {}
        for row in result[name]["rows"]:
            by_library.setdefault(row["library"], []).append(row)
        for library, some in by_library.items():
            fast = [max(row["at"][level]["batch"] or 0.0 for row in some) for level in LEVELS]
            alone = max(row["at"][LEVELS[1]]["single"] or 0.0 for row in some)
            sizes = [row["bytes_per_vector"] for row in some]
            span = f"{min(sizes):,.0f}" + (f" to {max(sizes):,.0f}" if max(sizes) > min(sizes) else "")
            rows.append((library, name, span, *map(_qps, fast), _qps(alone)))
    settings = result["graphs"]["settings"]
    return table(
        ("library", "for", "bytes per vector", *(f"q/s at {level}" for level in LEVELS), "one at a time, at 0.95"),
        rows,
        f"Queries a second on one thread at a recall@10 of {', '.join(LEVELS)}, by the fastest index of each library, "
        f"over {settings['vectors']:,} real vectors of {settings['dim']} numbers, {settings['queries']:,} queries in a "
        "batch. " + measured(result["graphs"]["environment"]),
    )


def curves(section: dict[str, Any]) -> str:
    """All engines of a section."""
    rows = [
        (
            code(row["name"]),
            row["library"],
            f"{row['bytes_per_vector']:,.0f}",
            f"{row['build']['cpu_s']:,.1f}",
            f"{row['max_recall']:.4f}",
            *(_qps(row["at"][level]["batch"]) for level in LEVELS),
            *(_qps(row["at"][level]["single"]) for level in LEVELS),
        )
        for row in section["rows"]
    ]
    settings = section["settings"]
    missing = f"Not installed, so not measured: {', '.join(section['missing'])}. " if section["missing"] else ""
    return table(
        (
            "index", "library", "bytes per vector", "s to build", "best recall@10",
            *(f"q/s at {level}" for level in LEVELS), *(f"single, {level}" for level in LEVELS),
        ),
        rows,
        f"{settings['vectors']:,} vectors of {settings['dim']} numbers ({settings['set']}), {settings['queries']:,} "
        "queries, one thread; bytes are those of the saved file, seconds to build those of the processor. "
        f"{missing}" + measured(section["environment"]),
    )  # fmt: skip


def filters(section: dict[str, Any]) -> str:
    rows = [
        (
            code(row["index"]),
            f"{row['allowed']:.1%}",
            row["which"],
            *(
                cell
                for kind in ("batch", "single")
                for cell in (
                    f"{row[kind]['recall']:.4f}",
                    *(f"{row[kind][way]:,.1f}" for way in ("filtered", "unfiltered", "scan")),
                )
            ),
        )
        for row in section["rows"]
    ]
    settings = section["settings"]
    return table(
        ("index", "allowed", "rows", *(f"{of}{kind}" for kind in ("", ", single") for of in (
            "recall@10", "µs", "µs, no filter", "µs, scan"
        ))),
        rows,
        f"Microseconds a query over {settings['vectors']:,} vectors with a filter, without one, and of a scan of the "
        "allowed rows by the same codes. Rows are allowed at random, or those nearest to one of them. "
        + measured(section["environment"]),
    )  # fmt: skip


def churn(section: dict[str, Any]) -> str:
    rows = [
        (code(row["index"]), *(f"{row[name]:.4f}" for name in ("fresh", "churned", "compacted")))
        for row in section["rows"]
    ]
    return table(
        ("index", "fresh build", "half exchanged", "after compact()"),
        rows,
        f"recall@10 of {section['rows'][0]['rows']:,} vectors. " + measured(section["environment"]),
    )


def scale(section: dict[str, Any]) -> str:
    rows = [
        (
            code(row["index"]),
            *_pair(row["bytes"], 1e-9, 3),
            *_pair(row["build_s"], 1, 1),
            *_pair(row["open_s"], 1e3, 1),
            f"{row['cold_s'] * 1e3:,.0f}",
        )
        for row in section["rows"]
    ]
    settings = section["settings"]
    return table(
        (
            "index",
            "GB",
            "estimated GB",
            "s to build",
            "estimated s",
            "ms to open",
            "estimated ms",
            "ms, cold open and query",
        ),
        rows,
        f"{settings['rows']:,} vectors of {settings['dim']} numbers by a generator, built on {settings['threads']} "
        "threads. " + measured(section["environment"]),
    )


def _pair(found: dict[str, float], factor: float, digits: int) -> tuple[str, str]:
    measured_, estimated = (f"{found[name] * factor:,.{digits}f}" for name in ("measured", "estimated"))
    return measured_, estimated


def _qps(found: float | None) -> str:
    return f"{found:,.0f}" if found else "-"
