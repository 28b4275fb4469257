"""Rewrite the tables of README.md and of the pages here from benchmarks/results: `python benchmarks/tables.py`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, and comes from results/NAME.json, or for a NAME like
FILE.SECTION from a section of results/FILE.json. What a command printed stands likewise under `<!-- text: NAME -->`,
and comes from results/NAME.txt.
"""

import json
import re
from pathlib import Path
from typing import Any

import tables_ann
import tables_gpu
import tables_kernels
import tables_lowbit
import tables_mteb
import tables_quality
import tables_recurrent
import tables_rerank
import tables_storage
from environment import RESULTS
from table_text import code, measured, table

README = Path(__file__).parents[1] / "README.md"
DOCUMENTS = (README, *sorted(Path(__file__).parent.glob("*.md")))

_PLACE = re.compile(r"(<!-- (table|text): (\S+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def main() -> None:
    for document in DOCUMENTS:
        document.write_text(rewritten(document.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")


def rewritten(document: str, results: Path) -> str:
    """The text with every table made anew."""

    def filled(match: re.Match[str]) -> str:
        start, kind, name = match.groups()
        if kind == "text":
            return f"{start}```text\n{(results / f'{name}.txt').read_text(encoding='utf-8')}```\n"
        if name not in TABLES:
            raise ValueError(f"a document asks for the table {name!r}, but there are {', '.join(TABLES)}")
        stem, *sections = name.split(".")
        file = results / f"{stem}.json"
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: run benchmarks/{stem}.py first")
        result = json.loads(file.read_text(encoding="utf-8"))
        if sections and name not in WHOLE:
            if sections[0] not in result:
                raise ValueError(f"{file} lacks {sections[0]!r}: run benchmarks/{stem}.py --only {sections[0]} first")
            result = result[sections[0]]
        return f"{start}{TABLES[name](result)}"

    return _PLACE.sub(filled, document)


def scan(result: dict[str, Any]) -> str:
    settings = result["settings"]
    rows = [
        (
            code(row["name"]),
            row["library"],
            f"{row['bytes_per_vector']:,}",
            f"{row['ms']:.1f}",
            f"{row['gb_per_s']:.1f}",
            f"{row['share_of_ceiling']:.0%}",
            f"{row['recall_at_10']:.3f}",
        )
        for row in result["rows"]
    ]
    return table(
        ("codes", "library", "bytes per vector", "ms a query", "GB/s", "of the ceiling", "recall@10"),
        rows,
        f"{settings['rows']:,} random vectors of {settings['dim']} dimensions with the falling spectrum of real ones "
        f"(which is why one bit finds so little here), one query at a time on one thread. "
        f"The ceiling is a loop that only reads the same bytes, {result['ceiling_gb_per_s']:.1f} GB/s. "
        + measured(result["environment"]),
    )


# Tables that show more than one section.
WHOLE = ("gpu.topk", "gpu.linear", "lowbit.bars", "mteb_tasks.bars", "rerank.bars", "rerank.agreement",
         "recurrent.bars", "recurrent.encoding", "recurrent.scanning")  # fmt: skip

TABLES = {
    "ann": tables_ann.short,
    "ann.bars": tables_quality.bars,
    "ann.graphs": tables_ann.curves,
    "ann.lists": tables_ann.curves,
    "ann.second": tables_ann.curves,
    "ann.filters": tables_ann.filters,
    "ann.churn": tables_ann.churn,
    "ann.scale": tables_ann.scale,
    "quality": tables_quality.choices,
    "quality.bars": tables_quality.bars,
    "quality.vectors": tables_quality.vectors,
    "quality.collections": tables_quality.collections,
    "quality.second": tables_quality.second,
    "quality.speed": tables_quality.speed,
    "scan": scan,
    "kernels.ceilings": tables_kernels.ceilings,
    "kernels.scan": tables_kernels.scan,
    "kernels.cache": tables_kernels.cache,
    "kernels.cache.peers": tables_kernels.cache_peers,
    "kernels.batch": tables_kernels.batch,
    "kernels.batch.peers": tables_kernels.batch_peers,
    "kernels.linear": tables_kernels.linear,
    "kernels.linear.peers": tables_kernels.linear_peers,
    "kernels.compile": tables_kernels.first_calls,
    "lowbit.bars": tables_lowbit.bars,
    "lowbit.solvers": tables_lowbit.solvers,
    "lowbit.quality": tables_lowbit.quality,
    "lowbit.encode": tables_lowbit.encode,
    "lowbit.causal": tables_lowbit.causal,
    "rerank.bars": tables_rerank.bars,
    "rerank.quality": tables_rerank.quality,
    "rerank.agreement": tables_rerank.agreement,
    "rerank.speed": tables_rerank.speed,
    "rerank.budget": tables_rerank.budget,
    "rerank.causal": tables_rerank.causal,
    "recurrent.bars": tables_recurrent.bars,
    "recurrent.recall": tables_recurrent.recall,
    "recurrent.collections": tables_recurrent.collections,
    "recurrent.encoding": tables_recurrent.encoding,
    "recurrent.scanning": tables_recurrent.scanning,
    "recurrent.versions": tables_recurrent.versions,
    "recurrent.upgrade": tables_recurrent.upgrade,
    "mteb_tasks.bars": tables_mteb.bars,
    "mteb_tasks.table": tables_mteb.systems,
    "tune.minilm.bars": lambda result: tables_quality.bars({"minilm": result["bars"]}),
    "tune.minilm": tables_mteb.choices,
    "rag_storage.collections.conclusions": tables_storage.conclusions,
    "rag_storage.collections.budgets": tables_storage.budgets,
    "rag_storage.collections.types": tables_storage.types,
    "rag_storage.collections": tables_storage.systems,
    "gpu.topk": tables_gpu.topk,
    "gpu.linear": tables_gpu.linear,
}


if __name__ == "__main__":
    main()
