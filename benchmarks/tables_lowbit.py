"""The tables of results/lowbit.json."""

from typing import Any

import tables_quality
from table_text import code, measured, table


def bars(result: dict[str, Any]) -> str:
    return tables_quality.bars({section: found["bars"] for section, found in result.items()})


def solvers(result: dict[str, Any]) -> str:
    ways = list(dict.fromkeys(row["solver"] for row in result["rows"]))
    found = {(row["recipe"], row["solver"]): row["error"] for row in result["rows"]}
    recipes = dict.fromkeys(row["recipe"] for row in result["rows"])
    rows = [(recipe, *(f"{found[recipe, way]:.2e}" for way in ways)) for recipe in recipes]
    settings = result["settings"]
    return table(
        ("recipe", *ways),
        rows,
        f"Relative squared error of the outputs, the mean over {settings['layers']} linear layers of MiniLM, on "
        f"{settings['tokens']:,} tokens. " + measured(result["environment"]),
    )


def quality(result: dict[str, Any]) -> str:
    rows = []
    for row in result["rows"]:
        loss = row.get("loss")
        rows.append(
            (
                code(row["plan"]),
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['bits']:.2f}",
                f"{row['cosine']:.4f}",
                f"{row['least_cosine']:.4f}",
                f"{row['ndcg']:.4f}",
                f"{loss['mean']:+.2f} ({loss['low']:+.2f} to {loss['high']:+.2f})" if loss else "",
                f"{row['quantize_s']:.1f}" if loss else "",
            )
        )
    return table(
        ("plan", "MB", "bits a weight", "cosine", "least cosine", "nDCG@10", "loss in points", "s to quantize"),
        rows,
        f"MiniLM on {', '.join(result['settings']['collections'])}: cosine of documents to float32's, nDCG@10 averaged "
        "over the collections, and float32's less this, times 100, with its 95% interval over the queries. Tables of "
        "tokens and positions count, too; rows without a name of a plan have the recipe in all linear layers and int8 "
        "in the table of tokens. " + measured(result["environment"]),
    )


def encode(result: dict[str, Any]) -> str:
    rows = [
        (
            row["name"],
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['tokens_per_s']:,}",
            f"{row['ratio']:.2f}",
            f"{row['cosine']:.4f}",
        )
        for row in result["rows"]
    ]
    settings = result["settings"]
    return table(
        ("MiniLM in", "MB", "tokens a second", "torch float32's time by its", "cosine"),
        rows,
        f"{settings['texts']} passages, {settings['tokens']:,} tokens, in batches of {settings['batch']}, on one "
        "thread, in turns; those of ONNX Runtime, OpenVINO and bf16 are a fifth of them. Cosine to torch float32. "
        + measured(result["environment"]),
    )


def causal(result: dict[str, Any]) -> str:
    rows = [
        (
            row["name"],
            f"{row['bytes'] / 1e6:.0f}",
            f"{row['prefill_tokens_per_s']:,}",
            f"{row['prefill_ratio']:.2f}",
            f"{row['decode_tokens_per_s']:.1f}",
            f"{row['decode_ratio']:.2f}",
            f"{row['linears_ms']:.1f}",
            f"{row['linears_ratio']:.2f}",
        )
        for row in result["rows"]
    ]
    settings = result["settings"]
    return table(
        ("SmolLM2-135M in", "MB", "prefill, tokens a second", "by float32", "decode", "by float32", "linear layers, ms",
         "by float32"),
        rows,
        f"Prefill of {settings['prompts']} prompts of {settings['prompt_tokens']} tokens, {settings['batch']} at once; "
        f"decoding {settings['steps']} tokens behind {settings['context']}; all linear layers of one step, the head "
        "too. One thread, in turns. " + measured(result["environment"]),
    )  # fmt: skip
