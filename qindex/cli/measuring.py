"""Commands that measure or foretell: estimate, mteb, tune, report."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from qindex.cli.app import app
from qindex.cli.models import DEFAULT_MODEL, load_encoder, load_reranker, located
from qindex.cli.quantizers import ESTIMATED

if TYPE_CHECKING:
    from qindex.index.metric import Metric

PAGE = "report.html"


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
    from qindex.evaluate.page import write_page
    from qindex.evaluate.table import table
    from qindex.evaluate.tasks import model_of, task_of

    found_tasks = [task_of(one) for one in tasks]  # before a model is loaded
    reranker = None if rerank is None else load_reranker(rerank)
    encoder = model_of(located(model), Path(model).name)
    measured = measure(
        encoder, systems, found_tasks, out, reranker=reranker, depth=depth, raw=raw, batch_size=batch_size
    )
    report = dataclasses.replace(measured, commands=[_command()])
    report.save(out / "mteb.json")
    write_page([report], out / PAGE)
    print(table(report))
    print(f"\n{out / PAGE}")


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
    from qindex.evaluate.page import write_page
    from qindex.evaluate.systems import System
    from qindex.evaluate.table import table
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
        encoder = load_encoder(model)
        base, asked = encoded(passages, questions, encoder, sample=sample, n_queries=n_queries, folder=out)
        corpus = len(passages) - (len(asked) if questions is None else 0)
    tuned = tuning.tune(
        base, queries=asked, recall=recall, bytes_per_vector=n_bytes, latency_ms=ms, systems=systems or None, k=k,
        metric=compared, sample=sample, n_queries=n_queries, corpus=corpus, folder=out,
    )  # fmt: skip
    report = dataclasses.replace(tuned.report, commands=[_command()])
    if sources and queries is None:
        held_out = "Queries are passages that were held out of the sample: real questions (--queries) tell more."
        report = dataclasses.replace(report, notes=[*report.notes, held_out])
    if out is not None:
        report.save(out / tuning.FILE)
        write_page([report], out / PAGE)
    print(table(report))
    if tuned.unmet:
        raise ValueError(tuned.unmet)
    if tuned.choice is None:
        print("\nNothing is chosen without a budget: --recall, --bytes or --ms, alone or together.")
    if out is not None:
        print(f"\n{out / PAGE}")


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


def _npy(path: Path) -> Any:
    """The array of an .npy file, which stays on disk."""
    from numpy.lib.format import open_memmap

    try:
        return open_memmap(path, mode="r")  # np.load also takes what is not .npy, and says how to unpickle it
    except ValueError as error:
        raise ValueError(f"{path} must be an .npy file of floats: {error}") from None


def _command() -> str:
    """What this process was asked to do, to be typed again."""
    return shlex.join(["qindex", *sys.argv[1:]])
