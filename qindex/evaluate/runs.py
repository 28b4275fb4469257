"""Many systems on tasks of mteb, over one encoding of each: scores, losses, bytes and speed in one report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from mteb.models import CompressionWrapper, SearchEncoderWrapper
from mteb.types import OutputDType
from numpy.typing import NDArray
from tqdm import tqdm

from qindex.evaluate.encoding import StoredEncoder, as_encoder
from qindex.evaluate.metrics import Interval, evaluate, judged, paired_bootstrap
from qindex.evaluate.mteb import QuantizedModel, Searched
from qindex.evaluate.report import ID_BYTES, Report, Row, environment
from qindex.evaluate.systems import System
from qindex.evaluate.tasks import load
from qindex.io import PathLike, replacing
from qindex.quantize import Float32
from qindex.types import Quantizer, Reranker

MEASURE, MAIN_SCORE = "nDCG@10", "ndcg_at_10"
# Of mteb's own wrapper: the raw codes of each side, compared as they lie. And bits of a number.
RAW = {OutputDType.INT8: 8, OutputDType.FLOAT8_E4M3FN: 8, OutputDType.BINARY: 1}


@dataclass
class _Record:
    """What is kept of one system on one task, beside mteb's own result."""

    score: float = 0.0
    main_score: str = ""
    bytes_per_vector: float = 0.0
    index_bytes: int | None = None
    latency_ms: float | None = None
    queries: dict[str, dict[str, float]] = field(default_factory=dict)  # nDCG@10 of each, by split and subset


def measure(
    model: Any,
    systems: Sequence[System | Quantizer],
    tasks: Sequence[Any],
    folder: PathLike,
    *,
    reranker: Reranker | None = None,
    depth: int | None = None,
    raw: bool = False,
    batch_size: int = 32,
    progress: bool | None = None,
) -> Report:
    """Run tasks of mteb (`mteb.get_task`, `folder_task`) for each system, and put what was found into one report.

    `model` is what `QuantizedModel` takes. A flat index of float32 comes first: losses refer to it, with the interval
    of a paired bootstrap over queries where nDCG@10 is the main score of all tasks. With `raw`, mteb's
    `CompressionWrapper` (int8, float8, binary) is measured on the same vectors.

    `folder` keeps the vectors, mteb's own result files and what the report needs beside them. Called again, it goes on
    with what is missing, and takes what is there: an interrupted run loses a block of texts or one system on one task.
    Of a task with splits or languages, index bytes and milliseconds are those of the largest.

    Raises ValueError for a system that comes twice, no task, a task that cannot be loaded, and, by its name, for a
    system that a task does not suit.
    """
    folder = Path(folder)
    chosen = [one if isinstance(one, System) else System(one) for one in systems]
    if all(one.name != _REFERENCE.name for one in chosen):
        chosen = [_REFERENCE, *chosen]
    names = [one.name for one in chosen]
    if len(set(names)) < len(names):
        raise ValueError(f"systems must differ, got {', '.join(names)}")
    titles = [task.metadata.name for task in tasks]
    if not tasks or len(set(titles)) < len(titles):
        raise ValueError(f"tasks must be one or more, each once, got {', '.join(titles) or 'none'}")
    for part in ("vectors", "records"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cache = mteb.ResultCache(folder / "results")
    model = as_encoder(model)

    def run(name: str, model: Any, task: Any) -> _Record:
        return _kept_record(name, model, task, cache, folder / "records", batch_size, progress)

    records: dict[str, dict[str, _Record]] = {}
    wrappers = list(RAW) if raw else []
    hidden = None if progress is None else not progress
    n_runs = len(tasks) * (len(chosen) + len(wrappers))
    with _no_bars_of_datasets(), tqdm(total=n_runs, desc="measure", unit="run", disable=hidden) as bar:
        for task in tasks:
            title, was_loaded = task.metadata.name, task.data_loaded
            for system in chosen:
                bar.set_postfix_str(f"{title}: {system.name}")
                asked = QuantizedModel(model, system, reranker=reranker, depth=depth, folder=folder / "vectors")
                records.setdefault(system.name, {})[title] = run(system.name, asked, task)
                bar.update()
            for dtype in wrappers:
                bar.set_postfix_str(f"{title}: {dtype.value}")
                name = f"mteb CompressionWrapper, {dtype.value}"
                records.setdefault(name, {})[title] = run(name, _RawCodes(model, dtype, folder / "vectors"), task)
                bar.update()
            if task.data_loaded and not was_loaded:
                task.unload_data()
    whole = QuantizedModel(model, _REFERENCE, folder=folder / "vectors")
    about = {one.name: (one.index, "\n".join(one.lines(whole.metric))) for one in chosen}
    rows = [
        _row(name, *about.get(name, ("mteb", "")), found, records[_REFERENCE.name]) for name, found in records.items()
    ]
    scores = {record.main_score for found in records.values() for record in found.values()}
    return Report(
        title=f"{whole.mteb_model_meta.name} on {', '.join(titles)}",
        measure=MEASURE if scores == {MAIN_SCORE} else "main score of mteb",
        rows=rows,
        reference=_REFERENCE.name,
        notes=_notes(raw, reranker is not None),
        environment=environment("mteb", "torch", "sentence-transformers"),
    )


_REFERENCE = System(Float32())


@contextmanager
def _no_bars_of_datasets() -> Iterator[None]:
    """There would be one for every task and system."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _notes(raw: bool, reranked: bool) -> list[str]:
    notes = [
        "Scores are the mean over the tasks of mteb's main score. Losses are beside float32 on the same queries, with "
        "the 95 % interval of a paired bootstrap over queries.",
        f"Bytes of a vector are codes, scales, lists and links; its id takes {ID_BYTES} more.",
        "Milliseconds are the median of one query at a time, for its ten best documents, without encoding"
        + (" or reranking." if reranked else "."),
    ]
    if raw:
        notes.append("mteb's CompressionWrapper compares raw codes; it gets all documents in one call, from whose "
                     "ranges its integers are made, and queries in another.")  # fmt: skip
        if reranked:
            notes.append("Nothing is reranked behind mteb's CompressionWrapper.")
    return notes


class _RawCodes(SearchEncoderWrapper):
    """mteb's CompressionWrapper on stored vectors, watched as a QuantizedModel is."""

    def __init__(self, model: Any, dtype: Any, folder: Path) -> None:
        self.encoder = StoredEncoder(model, folder)
        super().__init__(CompressionWrapper(self.encoder, dtype), corpus_chunk_size=1 << 40)
        self.watch: Callable[[Searched], None] = lambda searched: None
        self.bits = RAW[dtype]

    @property
    def bytes_per_vector(self) -> float:
        return self.bits * self.encoder.dim / 8

    def encode(self, inputs: Any, **kwargs: Any) -> Any:
        return self.model.encode(inputs, **kwargs)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        return self.model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        return self.model.similarity_pairwise(embeddings1, embeddings2)

    def search(self, queries: Any, *, hf_split: str, hf_subset: str, **kwargs: Any) -> Any:
        kwargs["encode_kwargs"] = {**kwargs["encode_kwargs"], "show_progress_bar": False}  # a bar for each call of it
        found = super().search(queries, hf_split=hf_split, hf_subset=hf_subset, **kwargs)
        run = {query: dict(sorted(best.items(), key=lambda one: -one[1])) for query, best in found.items()}
        self.watch(Searched(hf_split, hf_subset, run))
        return found


def _kept_record(
    name: str, model: Any, task: Any, cache: Any, folder: Path, batch_size: int, progress: bool | None
) -> _Record:
    """What was kept of a model on a task, or what is measured and kept now."""
    meta = model.mteb_model_meta
    described = [meta.name, meta.revision, meta.experiment_name, task.metadata.name, task.metadata.dataset]
    described += [sorted(task.eval_splits), sorted(task.hf_subsets)]
    described += [getattr(task, one, None) for one in ("_top_k", "_previous_results_model_meta")]  # of a reranking
    file = folder / f"{task.metadata.name}-{hashlib.sha256(repr(described).encode()).hexdigest()[:16]}.json"
    if file.exists():
        try:
            return _Record(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} must be what an earlier run kept: {error}; delete it to measure again") from None
    load(task)
    record = _Record()
    model.watch = lambda searched: _watched(record, searched, task, model)
    try:
        results = mteb.evaluate(
            model,
            task,
            cache=cache,
            overwrite_strategy="always",  # what has no record was not finished
            show_progress_bar=False,
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": progress is not False},
        )
    except ValueError as error:
        raise ValueError(f"{name} on {task.metadata.name}: {error}") from error
    [result] = results.task_results
    record.score = float(result.get_score())
    if not math.isfinite(record.score):
        raise ValueError(f"{name} on {task.metadata.name} must have a score, mteb gives {record.score}: leave one out")
    record.main_score = task.metadata.main_score
    if not record.bytes_per_vector:
        record.bytes_per_vector = model.bytes_per_vector
    content = json.dumps(dataclasses.asdict(record), allow_nan=False).encode()
    with replacing(file) as out:
        out.write(content)
    return record


def _watched(record: _Record, searched: Searched, task: Any, model: Any) -> None:
    """Take from a search what mteb's result lacks."""
    relevant = task.dataset[searched.subset][searched.split]["relevant_docs"]
    run = {}
    for query, found in searched.run.items():
        documents = [document for document in found if not (task.ignore_identical_ids and document == query)]
        run[query] = documents[1:] if task.skip_first_result else documents
    scores = evaluate(run, relevant, [MEASURE])[MEASURE]
    record.queries[f"{searched.split} {searched.subset}"] = dict(zip(judged(relevant), scores.tolist(), strict=True))
    built = searched.built
    if built is None or searched.queries is None:
        return
    if record.index_bytes is None or built.nbytes > record.index_bytes:
        record.index_bytes, record.bytes_per_vector = built.nbytes, built.nbytes / len(built) - ID_BYTES
        record.latency_ms = model.system.latency_ms(built, searched.queries, 10)


def _row(name: str, family: str, code: str, found: Mapping[str, _Record], reference: Mapping[str, _Record]) -> Row:
    largest = max(found.values(), key=lambda record: record.index_bytes or 0)
    return Row(
        name=name,
        family=family,
        code=code,
        score=float(np.mean([record.score for record in found.values()])),
        bytes_per_vector=largest.bytes_per_vector,
        loss=_loss(found, reference),
        parts={title: record.score for title, record in found.items()},
        index_bytes=largest.index_bytes,
        latency_ms=largest.latency_ms,
    )


def _loss(found: Mapping[str, _Record], reference: Mapping[str, _Record]) -> Interval | None:
    """None where a score is not the measure that is known of each query."""
    weighted: list[tuple[int, NDArray[np.float64]]] = []  # subsets of the task, and the losses in one of them
    for title, record in found.items():
        whole = reference[title].queries
        if record.main_score != MAIN_SCORE or not whole or record.queries.keys() != whole.keys():
            return None
        for subset, scores in record.queries.items():
            if scores.keys() != whole[subset].keys():
                return None
            losses = np.array([whole[subset][query] - score for query, score in scores.items()])
            weighted.append((len(whole), losses))
    # Tasks weigh the same, and so do the subsets of one, as in mteb's score.
    return paired_bootstrap([losses * len(weighted) / (len(found) * n) for n, losses in weighted], samples=2000)
