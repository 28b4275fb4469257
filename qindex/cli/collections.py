"""Commands for collections of texts: index, search, train-reranker, info, demo."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qindex.cli.app import app
from qindex.cli.models import DEFAULT_MODEL, load_encoder, load_reranker, located
from qindex.cli.quantizers import QUANTIZERS
from qindex.types import Hit

if TYPE_CHECKING:
    from qindex.collection.collection import Collection
    from qindex.rerank import CrossEncoderReranker


@app.command()
def index(
    sources: Annotated[list[Path], typer.Argument(help="Text files, JSON lines files, and folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder of the collection; an older one there is replaced.")],
    model: Annotated[str, typer.Option(help="A sentence-transformers model: a folder or a name.")] = DEFAULT_MODEL,
    field: Annotated[str | None, typer.Option(help='Where JSON lines hold the text; "text" if left out.')] = None,
    quantizer: Annotated[str, typer.Option(help=f"One of {', '.join(QUANTIZERS)}.")] = "int8",
    max_chars: Annotated[int, typer.Option(min=1, help="The longest passage, in characters.")] = 1000,
) -> None:
    """Split texts into passages, encode them, and write a collection that `qindex search` reads."""
    from qindex.collection.catalogue import check_target
    from qindex.collection.collection import Collection
    from qindex.collection.sources import read_sources

    start = time.perf_counter()
    if quantizer not in QUANTIZERS:
        raise ValueError(f"quantizer must be one of {', '.join(QUANTIZERS)}, got {quantizer!r}")
    check_target(out)  # and read the sources, before a model is loaded
    documents = list(read_sources(sources, field))
    if Path(model).is_dir():
        model = str(Path(model).resolve())
    chosen, rescore = QUANTIZERS[quantizer]
    encoder = load_encoder(model)
    collection = Collection.build(out, documents, encoder, chosen, rescore=rescore, max_chars=max_chars, model=model)
    seconds = time.perf_counter() - start
    print(f"{len(collection)} passages of {collection.meta.sources} sources in {out}, in {seconds:.1f} s")


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(help="A folder that `qindex index` wrote.")],
    question: Annotated[str, typer.Argument()],
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 10,
    model: Annotated[str | None, typer.Option(help="Where the collection's model is now, if it was moved.")] = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="A cross-encoder for the best hits: a file of train-reranker, a folder or a name on the hub."
        ),
    ] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="How many hits it reads; 50 if left out.")] = None,
    budget_ms: Annotated[float | None, typer.Option(help="How long that may take.")] = None,
    timing: Annotated[bool, typer.Option("--timing", help="Print where the time went.")] = False,
) -> None:
    """Print the passages of a collection that answer a question best."""
    if rerank is None and (depth is not None or budget_ms is not None):
        raise ValueError("--depth and --budget-ms are for --rerank, which says by what")
    if depth is not None and depth < k:
        raise ValueError(f"--depth must be at least -k, {k}, got {depth}")
    marks = [("", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    from qindex.collection.collection import Collection

    collection = Collection.open(folder)
    model = _model_of(collection, model)
    mark("opening the collection")
    with contextlib.suppress(ImportError):  # the encoder will say what to install
        import sentence_transformers  # noqa: F401
    mark("importing sentence-transformers")
    encoder = load_encoder(model)
    collection.check_encoder(encoder)
    mark("loading the model")
    vectors = encoder.encode_query([question])
    mark("encoding the question")
    n = k
    if rerank is not None:
        from qindex.rerank.order import DEPTH

        n = max(k, depth or DEPTH)
    [hits] = collection.search_vectors(vectors, n)
    mark("searching")
    if rerank is not None:
        reranker = load_reranker(rerank)
        mark("loading the reranker")
        reranked = reranker.rerank(question, hits, k, budget_ms=budget_ms)
        mark("reranking")
        if reranked.partial:
            print(f"{budget_ms:g} ms were not enough for all of {len(hits)} hits: the last keep their order.")
        hits = list(reranked)

    _print_hits(hits)
    if timing:
        print()
        for (_, before), (name, after) in itertools.pairwise(marks):
            print(f"{(after - before) * 1e3:8.1f} ms  {name}")
        print(f"{(marks[-1][1] - marks[0][1]) * 1e3:8.1f} ms  total")


@app.command()
def train_reranker(
    folder: Annotated[Path, typer.Argument(help="A folder that `qindex index` wrote.")],
    out: Annotated[Path, typer.Option(help="The file to write; an older one there is replaced.")],
    judged: Annotated[
        list[Path] | None,
        typer.Option(help="Judged queries to learn from, in the layout of BEIR, instead of the collection's texts."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The encoder to begin with, if not the collection's.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training; each takes 32 pairs.")] = 200,
    bits: Annotated[int, typer.Option(help="8 or 4.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the order of examples.")] = 0,
) -> None:
    """Train a small cross-encoder on a collection, quantize it, and write it for `qindex search --rerank`.

    Its examples are judged queries, or else the collection's own passages: the title or the first sentence of one is
    the query that its rest answers. What its scores are worth beside the search is learnt from queries left out.
    """
    if bits not in (8, 4):
        raise ValueError(f"bits must be 8 or 4, got {bits}")
    from qindex.collection.collection import Collection

    start = time.perf_counter()
    collection = Collection.open(folder)
    model = _model_of(collection, model)
    reranker = _trained(collection.texts(), judged or [], model, steps, bits, seed)
    reranker.save(out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, trained in {time.perf_counter() - start:.0f} s; {reranker.fuse}")


@app.command()
def info(folder: Annotated[Path, typer.Argument(help="A folder that `qindex index` wrote.")]) -> None:
    """Print what a collection holds."""
    from qindex.collection.collection import Collection

    for key, value in Collection.open(folder).info().items():
        print(f"{key.replace('_', ' '):15} {value}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the collection; an older one there is replaced.")] = Path(
        "qindex-demo"
    ),
    limit: Annotated[int, typer.Option(min=50, help="How many docstrings.")] = 3000,
    steps: Annotated[int, typer.Option(min=1, help="Steps to train the reranker for.")] = 60,
) -> None:
    """Index the documentation strings of the installed packages, ask, rerank, and compare the quantizers."""
    from qindex import kernels
    from qindex.collection.catalogue import check_target
    from qindex.evaluate.comparison import compare
    from qindex.evaluate.demo import QUESTIONS, build_demo
    from qindex.rerank.order import DEPTH

    check_target(out)  # before a model is loaded
    encoder = load_encoder(DEFAULT_MODEL)
    print(f"Reading and encoding up to {limit} docstrings, which takes a minute or two.", flush=True)
    start = time.perf_counter()
    collection, vectors, queries = build_demo(out, encoder, DEFAULT_MODEL, limit)
    seconds = time.perf_counter() - start
    print(f"{len(collection)} passages of docstrings in {out}, in {seconds:.1f} s")

    for question, hits in zip(QUESTIONS, collection.search(QUESTIONS, 3, encoder=encoder), strict=True):
        print(f"\n{question}")
        _print_hits(hits, max_lines=2)

    print(f"\nTraining a small reranker on the passages themselves, {steps} steps of 32 pairs.", flush=True)
    start = time.perf_counter()
    reranker = _trained(collection.texts(), [], DEFAULT_MODEL, steps, 8, 0)
    file = out / "reranker.qindex"
    reranker.save(file)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB in 8 bits, in {time.perf_counter() - start:.1f} s")
    for question, hits in zip(QUESTIONS, collection.search(QUESTIONS, DEPTH, encoder=encoder), strict=True):
        start = time.perf_counter()
        reranked = reranker.rerank(question, hits, 5, budget_ms=200)
        took = (time.perf_counter() - start) * 1e3
        read = "some" if reranked.partial else "all that could matter"
        print(f"\n{question}  ({took:.0f} ms, {read} of {len(hits)} read)\n   before {'':>37}after")
        for before, after in zip(hits, reranked, strict=False):
            print(f"   {_place(before)[:42]:<43} {_place(after)[:60]}")

    kernels.set_threads(1)
    print(
        f"\n{len(vectors)} vectors of {collection.meta.dim} numbers, {len(queries)} queries (docstrings that were not "
        "indexed).\nrecall@10: how many of the ten best by float32 are found. queries/s: one at a time, one thread.\n"
    )
    print(f"{'quantizer':<13}{'bytes/vector':>13}{'recall@10':>11}{'queries/s':>11}")
    for row in compare(vectors, queries, QUANTIZERS):
        print(f"{row.name:<13}{row.bytes_per_vector:>13}{row.recall:>11.3f}{row.queries_per_second:>11.0f}")
    print(f'\nNow ask it yourself: qindex search {out} "how do I parse a date?" --rerank {file}')


def _model_of(collection: Collection, model: str | None) -> str:
    """The model that the user names, or else the one that a collection was built with."""
    model = model or collection.meta.model
    if not model:
        raise ValueError(
            f"collection {collection.path} does not say which model it was built with; name it with --model"
        )
    return model


def _trained(
    texts: list[str], judged: list[Path], model: str, steps: int, bits: Any, seed: int
) -> CrossEncoderReranker:
    """A reranker that learns from judged collections, or else from texts."""
    from qindex.evaluate.beir import load_beir
    from qindex.lowbit import Plan
    from qindex.rerank import Judgements, reranker_plan, train_reranker

    encoder = load_encoder(model, Plan.default(8))
    sets = [load_beir(one).judgements(encoder) for one in judged]
    if not judged:
        sets.append(Judgements.from_documents(texts, encoder, most=2000, seed=seed))
    return train_reranker(located(model), sets, plan=reranker_plan(bits), steps=steps, seed=seed)


def _place(hit: Hit) -> str:
    return f"{hit.metadata['source']}:{hit.metadata['line'] if 'line' in hit.metadata else hit.metadata['start']}"


def _print_hits(hits: Iterable[Hit], max_lines: int | None = None) -> None:
    width = min(shutil.get_terminal_size().columns, 120)
    for rank, hit in enumerate(hits, start=1):
        print(f"{rank:3}  {hit.score:.4f}  {_place(hit)}")
        lines = textwrap.wrap(" ".join(hit.text.split()), width - 5, max_lines=max_lines, placeholder=" …")
        print(textwrap.indent("\n".join(lines), " " * 5))
