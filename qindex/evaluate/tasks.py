"""Tasks of mteb: of a judged folder, without a network, or by name."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import SentenceTransformerEncoderWrapper

from qindex.encode.sentence import loading_bar, on_terminal
from qindex.evaluate.beir import JudgedCollection, load_beir
from qindex.io import PathLike

logger = logging.getLogger(__name__)


def folder_task(path: PathLike, name: str | None = None) -> Any:
    """A retrieval task for `mteb.evaluate` of a folder in the layout of BEIR: its main score is nDCG@10.

    The folder holds `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`. `name`, by default that of the folder, is
    what results are kept under; they belong to this content of it, and are measured anew when it changes.

    Raises what `load_beir` raises, and ValueError where no query is judged or the name has a slash. A query without a
    relevant document scores 0 whatever is found; the log tells how many there are.
    """
    folder = Path(path)
    collection = load_beir(folder)
    if not collection.queries:
        raise ValueError(f"{folder / 'qrels' / 'test.tsv'} must judge at least one query, got none")
    hopeless = sum(max(grades.values()) < 1 for grades in collection.qrels.values())
    if hopeless:
        logger.warning("%d of %d queries of %s have no relevant document", hopeless, len(collection.queries), folder)
    name = name or folder.resolve().name
    if "/" in name or "\\" in name:
        raise ValueError(f"name must be one that a file can have, without a slash, got {name!r}")
    metadata = TaskMetadata(
        name=name,
        description=f"Judged documents of the folder {name}.",
        dataset={"path": name, "revision": _digest(collection)},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )
    # A class of its own: when mteb unloads a task, it takes away metadata that an instance has.
    return type(name, (_FolderTask,), {"metadata": metadata, "collection": collection})()


class _FolderTask(AbsTaskRetrieval):
    collection: JudgedCollection
    data_loaded: bool

    def load_data(self, **_: Any) -> None:
        if self.data_loaded:
            return
        found = self.collection
        documents, queries = (
            Dataset.from_dict({"id": list(texts), "text": list(texts.values())})
            for texts in (found.documents, found.queries)
        )
        relevant = {query: dict(found.qrels[query]) for query in found.queries}
        split = {"corpus": documents, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def task_of(name: str) -> Any:
    """The task of a folder, or else the one that mteb knows by a name. ValueError for none, with the nearest names."""
    if Path(name).is_dir():
        return folder_task(name)
    try:
        return mteb.get_task(name)
    except KeyError as error:
        said = str(error.args[0]).removeprefix("KeyError: ")
        raise ValueError(f"tasks must be folders in the layout of BEIR or names that mteb knows: {said}") from None


def model_of(model: str, name: str) -> Any:
    """The encoder of mteb's for a folder, under a name for its results, or for a name on the hub, with its prompts.

    Raises ValueError where it cannot be loaded, as it is without a network.
    """
    from sentence_transformers import SentenceTransformer

    if os.path.isdir(model):
        with loading_bar(on_terminal()):
            encoder = SentenceTransformerEncoderWrapper(SentenceTransformer(model))
        encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"name": f"local/{name}"})
        return encoder
    try:
        return mteb.get_model(model if "/" in model else f"sentence-transformers/{model}")
    except Exception as error:  # of whatever a hub's client raises
        raise ValueError(
            f"model {model} could not be loaded: {_first_line(error)}; a folder needs no network"
        ) from error


def load(task: Any) -> None:
    """Load what a task asks and judges. ValueError where that fails, as it does without a network."""
    try:
        task.load_data()
    except Exception as error:  # of whatever a hub's client or a dataset's own code raises
        raise ValueError(
            f"task {task.metadata.name} could not be loaded: {_first_line(error)}; a task of the hub needs a network "
            "(or what an earlier run has left in its cache), a judged folder needs none"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def _digest(collection: JudgedCollection) -> str:
    """Of all that scores depend on."""
    sha256 = hashlib.sha256()
    for part in (collection.documents, collection.queries, collection.qrels):
        sha256.update(repr(sorted(part.items())).encode("utf-8", "surrogatepass"))
    return sha256.hexdigest()[:16]
