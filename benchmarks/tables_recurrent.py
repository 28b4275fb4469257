"""The tables of results/recurrent.json."""

from typing import Any

import tables_quality
from table_text import code, measured, table


def bars(result: dict[str, Any]) -> str:
    return tables_quality.bars({section: found["bars"] for section, found in result.items() if "bars" in found})


def recall(result: dict[str, Any]) -> str:
    rows = [
        (code(row["name"]), f"{row['bytes']}", _spread(row["recall"], row["recalls"]),
         _spread(row["coded"], row["codeds"]), f"{row['train_s']:.0f}")
        for row in sorted(result["rows"], key=lambda row: (row["bytes"], row["recall"]))
    ]  # fmt: skip
    settings = result["settings"]
    return table(
        ("codes", "bytes", "recall@10", "both sides coded", "seconds to learn"),
        rows,
        f"{settings['rows']:,} rows of minilm-100k, {settings['queries']:,} queries that no code has seen; where there "
        "are three seeds, their mean, the least and the most. Trained are those with up to "
        f"{settings['steps']:,} steps on one thread. " + measured(result["environment"]),
    )


def collections(result: dict[str, Any]) -> str:
    titles = list(result["rows"][0]["ndcg"])
    rows = [
        (code(row["name"]), f"{row['bytes']}", *(f"{row['ndcg'][title]:.4f}" for title in titles),
         f"{row['share']:.1%}", _interval(row["change"]))
        for row in result["rows"]
    ]  # fmt: skip
    return table(
        ("codes", "bytes", *titles, "of float32", "change, points"),
        rows,
        "nDCG@10 of MiniLM; the codes have learnt from minilm-100k, which is other text. The change has its 95% "
        "interval over the queries. " + measured(result["environment"]),
    )


def encoding(result: dict[str, Any]) -> str:
    result = result["speed"]
    rows = [
        (code(row["name"]), f"{row['vectors_per_s']:,}", f"{row['of_matmul_peak']:.0%}") for row in result["encoding"]
    ]
    peak = result["encoding"][0]["peak_gflops"]
    return table(
        ("codes", "vectors a second", "of the matmul peak"),
        rows,
        f"384 dimensions, one thread; the peak is what NumPy's float32 product reaches, {peak:.0f} GFLOP/s. "
        + measured(result["environment"]),
    )


def scanning(result: dict[str, Any]) -> str:
    result = result["speed"]
    sides = ("float, 1", "coded, 1", "float, 64", "coded, 64")
    rows = [
        (code(row["name"]), f"{row['bytes']}", f"{row['rows']:,}", *(f"{row['ns'][side]:.2f}" for side in sides))
        for row in result["scanning"]
    ]
    return table(
        ("codes", "bytes", "of", "float query", "coded query", "64 float queries", "64 coded"),
        rows,
        "Nanoseconds a row and query, the best 10, one thread. " + measured(result["environment"]),
    )


def versions(result: dict[str, Any]) -> str:
    titles = list(result["rows"][0]["ndcg"])
    rows = [
        (row["old"], row["name"], *(f"{row['ndcg'][title]:.4f}" for title in titles), _interval(row["gain"]))
        for row in result["rows"]
    ]
    settings = result["settings"]
    return table(
        ("old encoder", "queries and codes", *titles, "gain over old on old, points"),
        rows,
        f"nDCG@10. Codes of {settings['dim']} numbers of {settings['bits']} bits; the new encoder is "
        f"MiniLM. All models learn from {settings['texts']:,} documents and passages of the collections, none from a "
        "query. " + measured(result["environment"]),
    )


def upgrade(result: dict[str, Any]) -> str:
    rows = [
        (row["kind"], row["quantizer"], row["fitted_on"], *(f"{row[name]:.4f}" for name in ("old", "adapted", "new")),
         f"{row['of_new']:.0%}", f"{row['recovered']:+.0%}")
        for row in result["means"]
    ]  # fmt: skip
    return table(
        ("adapter", "index in", "fitted on", "old queries", "new ones, adapted", "new index", "of it", "of the gain"),
        rows,
        "nDCG@10, the mean of cran, med, npl and xquad-en: an index of wordllama's vectors, searched by MiniLM's "
        "queries through an adapter. " + measured(result["environment"]),
    )


def _spread(mean: float, found: list[float]) -> str:
    return f"{mean:.4f}" if len(found) == 1 else f"{mean:.4f} ({min(found):.4f} to {max(found):.4f})"


def _interval(change: dict[str, float]) -> str:
    return f"{change['mean']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})"
