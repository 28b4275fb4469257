"""The tables of results/rerank.json."""

from typing import Any

import tables_quality
from table_text import measured, table


def bars(result: dict[str, Any]) -> str:
    return tables_quality.bars({section: found["bars"] for section, found in result.items()})


def quality(result: dict[str, Any]) -> str:
    rows = [
        (
            row["collection"],
            f"{row['queries']}",
            *(f"{row[name]:.4f}" for name in ("first stage", "alone", "fused", "reciprocal rank")),
            f"{row['gain']['mean']:+.2f} ({row['gain']['low']:+.2f} to {row['gain']['high']:+.2f})",
        )
        for row in result["rows"]
    ]
    settings = result["settings"]
    of_four = ", ".join(f"{row['collection']} {row['gain']['mean']:+.2f}" for row in result["four_bits"])
    return table(
        ("collection", "queries", "first stage", "reranker alone", "fused", "reciprocal rank", "fused gains, points"),
        rows,
        f"nDCG@10 of the {settings['depth']} best by MiniLM, and of the same put in order by a cross-encoder in 8 bits "
        f"that {settings['steps']} steps have trained from MiniLM on the other queries ({settings['folds']} folds of "
        "all four collections together), with the 95% interval of the gain over the queries. One trained for 4 "
        f"bits, in the first fold, gains {of_four}. " + measured(result["environment"]),
    )


def agreement(result: dict[str, Any]) -> str:
    result = result["quality"]
    rows = [
        (found["bits"], f"{found['tau']:.3f}", f"{found['top_1']:.0%}", f"{found['queries']}")
        for found in result["agreement"]
    ]
    return table(
        ("cross-encoder in", "Kendall's tau", "same first", "queries"),
        rows,
        f"The order of the {result['settings']['depth']} best beside that of the same network in float32. "
        + measured(result["environment"]),
    )


def speed(result: dict[str, Any]) -> str:
    rows = [
        (row["name"], f"{row['bytes'] / 1e6:.1f}", f"{row['documents_per_s']:,}", f"{row['ratio']:.2f}")
        for row in result["rows"]
    ]
    settings = result["settings"]
    return table(
        ("MiniLM in", "MB", "documents a second", "torch float32's time by its"),
        rows,
        f"{settings['documents']} documents for one query, {settings['tokens']:.0f} tokens each with it, one thread, "
        "in turns. " + measured(result["environment"]),
    )


def budget(result: dict[str, Any]) -> str:
    rows = [
        (
            row["name"],
            f"{row['median_ms']:.0f}",
            f"{row['p95_ms']:.0f}",
            f"{row['most_ms']:.0f}",
            "" if row["read"] is None else f"{row['read']:.0f}",
            f"{row['partial']:.0%}",
        )
        for row in result["rows"]
    ]
    settings = result["settings"]
    return table(
        ("rerank", "median ms", "95th percentile", "most", "documents read", "cut off by the budget"),
        rows,
        f"{settings['questions']} questions to {settings['passages']:,} docstrings, the {settings['depth']} best of "
        f"the index each, by a cross-encoder in 8 bits on {settings['threads']} threads, trained on the docstrings in "
        f"{settings['train_s']} s ({settings['steps']} steps). Fused is for the ten best, and ends when these are "
        "sure. " + measured(result["environment"]),
    )


def causal(result: dict[str, Any]) -> str:
    rows = [
        (
            row["recipe"],
            f"{row['bytes'] / 1e6:.0f}",
            f"{row['picked']:.0%}",
            f"{row['tau']:.3f}",
            f"{row['top_1']:.0%}",
            f"{row['documents_per_s']:.1f}",
        )
        for row in result["rows"]
    ]
    settings = result["settings"]
    return table(
        ("linear layers in", "MB", "right one picked", "tau with float32", "same first", "documents a second"),
        rows,
        f"{settings['queries']} questions of xquad-en: the passage with the answer among {settings['candidates']}, "
        "the others being those that MiniLM finds nearest, by the likelihood that SmolLM2-135M gives the question "
        f"behind each. MiniLM itself picks it {settings['first_stage_picked']:.0%} of the time. The weights come from "
        "a 4-bit file; the embedding and the head are in int8 but in the first row. "
        f"{settings['threads']} threads. " + measured(result["environment"]),
    )
