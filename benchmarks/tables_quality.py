"""The tables of results/quality.json."""

from typing import Any

from table_text import code, measured, table

# Those between which a user chooses, and the best of others near them.
CHOICES = (
    "Float32()", "Float16()", "Int8()", 'Int8("dim")', 'Float8("e3m4")', 'Float8("e4m3")', "Spectral(290)", "RaBitQ(6)",
    'Microscaling("nvfp4")', "Int4()", "Spectral(194)", "LloydMax(4)", "RaBitQ(4)", 'Chain(PCA(192), Float8("e4m3"))',
    "Spectral(150)", "Spectral(98)", "RaBitQ(2)", "Spectral(50)", "RaBitQ(1)", "Binary()",
    "Chain(OPQ(48), ProductQuantizer(48))", "Binary(), rescore=Int8()", "RaBitQ(1), rescore=Int8()",
)  # fmt: skip
BESIDE = (
    "SQ8", "RaBitQ8", "RaBitQ4", "RaBitQ2", "RaBitQ1", "SQ 4 bit eden", "OPQ48, PQ48x8", "IndexBinaryFlat",
    "4 bits, calibrated", "2 bits, calibrated", "LVQ8", "sentence-transformers int8", "sentence-transformers ubinary",
    "mteb int8, NaN as 0",
)  # fmt: skip


def choices(result: dict[str, Any]) -> str:
    """A short table of quality from the sections `vectors` and `collections`."""
    found = {row["name"]: row for row in result["vectors"]["rows"]}
    judged = {row["name"]: row for row in result["collections"]["rows"]}
    missing = [name for name in (*CHOICES, *BESIDE) if name not in found]
    if missing:
        raise ValueError(f"results/quality.json lacks {', '.join(missing)}: run benchmarks/quality.py")
    rows = []
    for name in (*CHOICES, *BESIDE):
        row, beside = found[name], judged[name]
        loss = beside["loss"].get("average")
        rows.append(
            (
                code(name),
                row["family"],
                f"{row['bytes_per_vector']:,.0f}",
                f"{row['recall_at_10']['mean']:.3f}",
                f"{beside['kept']:.2%}" if loss else "",
                _points(loss) if loss else "",
                *_speeds(row),
            )
        )
    vectors, collections = (result[section]["settings"] for section in ("vectors", "collections"))
    return table(
        ("quantizer", "library", "bytes per vector", "recall@10", "nDCG@10 of float32's", "loss in points", *_SPEEDS),
        rows,
        f"recall@10 is against float32's best ten of {vectors['vectors']:,} real vectors of {vectors['dim']} "
        f"numbers, for {vectors['queries']:,} queries. nDCG@10 is the average over {_named(collections)}, encoded by "
        f"{collections['model']}; the loss is float32's less this, times 100, with its "
        f"{collections['confidence']:.0%} interval over the queries. {_TIMES} Raw codes are ranked as they lie, "
        "without decoding. " + measured(result["vectors"]["environment"]),
    )


def bars(result: dict[str, list[dict[str, Any]]]) -> str:
    rows = [
        (one["what"], one["wanted"], one["found"], "yes" if one["passed"] else "**no**")
        for section in result.values()
        for one in section
    ]
    reached = sum(cells[-1] == "yes" for cells in rows)
    return table(("measured", "wanted", "found", "reached"), rows, f"{reached} of {len(rows)} are reached.")


def vectors(result: dict[str, Any]) -> str:
    rows = [
        (
            code(row["name"]),
            row["family"],
            f"{row['bytes_per_vector']:,.0f}",
            *(_share(row[f"recall_at_{k}"]) for k in (10, 100)),
            f"{row['fit_s']:.1f}" if "fit_s" in row else "",
            *_speeds(row),
        )
        for row in result["rows"]
    ]
    settings = result["settings"]
    return table(
        ("system", "library", "bytes per vector", "recall@10", "recall@100", "s to fit", *_SPEEDS),
        rows,
        f"{settings['vectors']:,} vectors of {settings['dim']} numbers, {settings['queries']:,} queries; intervals of "
        f"{settings['confidence']:.0%}. {_TIMES} Batches are of 1,000 queries, of slow searches of 100. "
        + measured(result["environment"]),
    )


def collections(result: dict[str, Any]) -> str:
    titles = list(result["settings"]["collections"])
    rows = []
    for row in result["rows"]:
        cells = [code(row["name"]), row["family"]]
        cells += [f"{row['ndcg'][title]:.4f}" if title in row["ndcg"] else "" for title in (*titles, "average")]
        cells += [_points(row["loss"]["average"]) if "average" in row["loss"] else ""]
        cells += [f"{row['top_10'][title]:.3f}" if title in row["top_10"] else "" for title in titles]
        rows.append(tuple(cells))
    heads = (*titles, "average", "loss in points", *(f"top 10, {title}" for title in titles))
    return table(
        ("system", "library", *heads),
        rows,
        f"nDCG@10 on {_named(result['settings'])}, encoded by {result['settings']['model']}; float32's average less "
        "that of the row, times 100; and the share of float32's best ten documents that are among the row's. "
        + measured(result["environment"]),
    )


def second(result: dict[str, Any]) -> str:
    rows = [
        (
            code(row["name"]),
            row["family"],
            f"{row['bytes_per_vector']:,.0f}",
            *(_share(row[f"recall_at_{k}"]) for k in (10, 100)),
        )
        for row in result["rows"]
    ]
    settings = result["settings"]
    return table(
        ("system", "library", "bytes per vector", "recall@10", "recall@100"),
        rows,
        f"{settings['vectors']:,} documents and passages of them, {settings['queries']:,} queries, static embeddings "
        f"of {settings['dim']} numbers (wordllama). " + measured(result["environment"]),
    )


def speed(result: dict[str, Any]) -> str:
    rows = []
    for row in result["rows"]:
        cells = [code(row["ours"]), row["theirs"], *(f"{recall:.3f}" for recall in row["recall_at_10"])]
        for kind in ("single", "batch"):
            cells += [*(f"{ms:.3f}" for ms in row[f"{kind}_ms"]), f"{row[f'{kind}_ratio']:.2f}"]
        rows.append(tuple(cells))
    settings, many = result["settings"], result["quantizing"]
    head = [
        title
        for kind in ("one", f"of {settings['queries']:,}")
        for title in (f"ms, {kind}", "its ms", "its time by ours")
    ]
    return table(
        ("codes", "beside", "recall@10", "its recall@10", *head),
        rows,
        f"Milliseconds a query over {settings['vectors']:,} vectors, one at a time and in a batch, rotating or packing "
        f"queries included; in turns, on one thread. Quantizing {many['rows']:,} vectors of {many['dim']} numbers to "
        f"`RaBitQ(4)` took {many['ours_s']:.0f} s, to faiss's RaBitQ of 4 bits {many['theirs_s']:.0f} s. "
        + measured(result["environment"]),
    )


_SPEEDS = ("µs to encode", "ms a query", "ms in a batch")
_TIMES = "Times are of one vector and of one query, on one thread."


def _speeds(row: dict[str, Any]) -> tuple[str, str, str]:
    if "single_ms" not in row:
        return ("", "", "")
    encode, single, batch = (row[name]["median"] for name in ("encode_us", "single_ms", "batch_ms"))
    return f"{encode:.1f}", f"{single:.2f}", f"{batch:.3f}"


def _named(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} ({one['documents']:,} documents, {one['queries']:,} queries)"
        for name, one in settings["collections"].items()
    )


def _share(found: dict[str, float]) -> str:
    return f"{found['mean']:.4f} ({found['low']:.4f} to {found['high']:.4f})"


def _points(loss: dict[str, float]) -> str:
    if loss["low"] == loss["high"] == 0:
        return "0"
    mean, low, high = (round(100 * loss[name], 2) + 0.0 for name in ("mean", "low", "high"))  # + 0.0: no minus zero
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
