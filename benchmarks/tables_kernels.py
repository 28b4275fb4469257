"""The tables of results/kernels.json, each from one section of it."""

from typing import Any

from table_text import measured, table


def ceilings(result: dict[str, Any]) -> str:
    row = (f"{result[f'{name}_gop_per_s']:,.0f}" for name in ("integer", "float"))
    return table(
        ("read, GB/s", "int8 multiply-adds, Gop/s", "float32 multiply-adds, Gop/s"),
        [(f"{result['read_gb_per_s']:.1f}", *row)],
        f"Reading {result['settings']['read_bytes'] >> 20:,} MiB; multiply-adds in registers, two operations each. "
        + _measured_on_one_thread(result),
    )


def scan(result: dict[str, Any]) -> str:
    dims = sorted({row["dim"] for row in result["rows"]})
    rows = []
    for name, found in _grouped(result["rows"], "format"):
        cells = [name, found[0]["query"]]
        for dim in dims:
            (row,) = (row for row in found if row["dim"] == dim)
            share = row.get("share_of_limit", row["share_of_read"])
            cells += [f"{row['ms']:.1f}", f"{row['gb_per_s']:.1f}", f"{share:.0%}"]
        rows.append(tuple(cells))
    head = [title for dim in dims for title in (f"ms, dim {dim}", "GB/s", "of the limit")]
    return table(
        ("codes", "query", *head),
        rows,
        f"One query, the best {result['settings']['k']} of {result['settings']['codes_bytes'] >> 20:,} MiB of codes. "
        "The limit is the bandwidth of reading the same array, taken in turns with the scan; for float32 queries it is "
        "the peak rate of multiply-adds where that is the slower one. " + _measured_on_one_thread(result),
    )


def cache(result: dict[str, Any]) -> str:
    batches = sorted({row["queries"] for row in result["rows"]})
    rows = []
    for name, found in _grouped(result["rows"], "format"):
        cells = [name, f"{found[0]['bytes_per_row']:g}"]
        for m in batches:
            (row,) = (row for row in found if row["queries"] == m)
            cells += [f"{row['ns_per_row']:.1f}", f"{row['gb_per_s']:.1f}"]
        rows.append(tuple(cells))
    settings = result["settings"]
    head = [title for m in batches for title in (f"ns a row, {_queries(m)}", "GB/s")]
    return table(
        ("codes", "bytes per row", *head),
        rows,
        f"{settings['rows']:,} rows of {settings['dim']} dimensions, the best {settings['k']} of each query; a row "
        "counts once for each query. " + _measured_on_one_thread(result),
    )


def cache_peers(result: dict[str, Any]) -> str:
    rows = [
        (
            row["format"],
            row["peer"],
            f"{row['rows']:,} x {row['dim']}",
            str(row["queries"]),
            f"{row['us']:,.0f}",
            f"{row['peer_us']:,.0f}",
            f"{row['ratio']:.2f}",
        )
        for row in result["peers"]
    ]
    return table(
        ("codes", "library", "rows", "queries", "µs", "its µs", "its time by ours"),
        rows,
        "The same vectors, in turns; against signs, queries are signs too. qindex returns the best ten by exact score; "
        "numkong's are products without a ranking. " + _measured_on_one_thread(result),
    )


def batch(result: dict[str, Any]) -> str:
    rows = [
        (
            row["format"],
            str(row["queries"]),
            f"{row['ms']:.1f}",
            f"{row['gop_per_s']:,.0f}",
            f"{row['share_of_peak']:.0%}",
        )
        for row in result["rows"]
    ]
    settings = result["settings"]
    return table(
        ("codes", "queries", "ms", "Gop/s", "of the peak"),
        rows,
        f"{settings['rows']:,} rows of {settings['dim']} dimensions, the best {settings['k']} of each query. The peak "
        "is that of int8 multiply-adds, for float32 codes of float32 ones. " + _measured_on_one_thread(result),
    )


def batch_peers(result: dict[str, Any]) -> str:
    rows = [
        (row["peer"], f"{row['ms']:.1f}", f"{row['peer_ms']:.1f}", f"{row['ratio']:.2f}") for row in result["peers"]
    ]
    return table(
        ("beside", "ms of int8 `topk`", "its ms", "its time by ours"),
        rows,
        f"{_queries(result['peers'][0]['queries'])} at once, the same vectors, in turns. "
        + _measured_on_one_thread(result),
    )


def linear(result: dict[str, Any]) -> str:
    batches = sorted({row["m"] for row in result["rows"]})
    rows = []
    for (n, k, weights, activations), found in _grouped(result["rows"], "n", "k", "weights", "activations"):
        by_m = {row["m"]: row for row in found}
        few, many = by_m[batches[0]], by_m[batches[-1]]
        times = (f"{by_m[m]['us']:,.0f}" for m in batches)
        shares = (f"{few['gb_per_s']:.1f}", f"{few['share_of_read']:.0%}")
        rates = (f"{many['gop_per_s']:,.0f}", f"{many['share_of_peak']:.0%}")
        rows.append((f"{n} x {k}", weights, activations, *times, *shares, *rates))
    times = (f"µs, m = {m}" for m in batches)
    first, last = f"m = {batches[0]}", f"m = {batches[-1]}"
    return table(
        ("layer", "weights", "activations", *times, f"GB/s, {first}", "of reading", f"Gop/s, {last}", "of the peak"),
        rows,
        f"m rows of activations times weights that rotate through {result['settings']['rotated_bytes'] >> 20} MiB. "
        "Reading is that of the same weights, in turns; the peak that of multiply-adds of the activations' kind. "
        + _measured_on_one_thread(result),
    )


def linear_peers(result: dict[str, Any]) -> str:
    batches = sorted({row["m"] for row in result["peers"]})
    rows = []
    for (n, k, family, counterpart), found in _grouped(result["peers"], "n", "k", "family", "counterpart"):
        cells = [f"{n} x {k}", family, counterpart]
        for m in batches:
            best = min((row for row in found if row["m"] == m), key=lambda row: row["us"])
            cells += [best["peer"], f"{best['us']:,.0f}", f"{best['ratio']:.2f}"]
        rows.append(tuple(cells))
    head = [title for m in batches for title in (f"fastest, m = {m}", "µs", "by ours")]
    return table(
        ("layer", "family", "beside", *head),
        rows,
        "The fastest of other libraries' layers with so many bits of weights (w) and activations (a), and its time by "
        "that of qindex's layer beside it, in turns. " + _measured_on_one_thread(result),
    )


def first_calls(result: dict[str, Any]) -> str:
    rows = []
    for op in dict.fromkeys(call.partition(":")[0] for call in result["cold_s"]):
        cells = [f"`{op}`"]
        for state in ("cold_s", "warm_s"):
            seconds = {call: s for call, s in result[state].items() if call.partition(":")[0] == op}
            longest = max(seconds, key=lambda call: seconds[call])
            cells += [f"{seconds[longest]:.2f}", longest.partition(":")[2]]
        rows.append(tuple(cells))
    warmup = result["warmup_s"]
    return table(
        ("kernel", "s, cold cache", "for", "s, warm cache", "for"),
        rows,
        "The longest first call of each kernel after numba is imported: without cached kernels, all formats one after "
        "the other in one process; with them, each in a process of its own. `qindex warmup` takes "
        f"{warmup['cold']:.0f} s, and with everything cached {warmup['warm']:.0f} s. "
        + _measured_on_one_thread(result),
    )


def _grouped(rows: list[dict[str, Any]], *keys: str) -> list[tuple[Any, list[dict[str, Any]]]]:
    """The rows that agree in `keys`, under what they agree in, in the order of the first of each."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys), []).append(row)
    return list(groups.items())


def _queries(m: int) -> str:
    return "1 query" if m == 1 else f"{m} queries"


def _measured_on_one_thread(result: dict[str, Any]) -> str:
    return f"One thread, {result['settings']['path']}. {measured(result['environment'])}"
