"""qindex in `mteb.evaluate`: an encoder with a quantizer and an index behind it, and rerankers."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mteb._create_dataloaders import create_dataloader  # what every model of mteb's prepares its inputs with
from mteb.models import ModelMeta
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from qindex import io
from qindex.evaluate.encoding import StoredEncoder
from qindex.evaluate.systems import System
from qindex.index.metric import Metric
from qindex.io import PathLike
from qindex.quantize import Int8
from qindex.rerank.order import DEPTH, rerank
from qindex.types import Codes, Hit, Index, Quantizer, Reranker, Vectors

_METRICS: dict[Any, Metric] = {
    None: "cosine",
    ScoringFunction.COSINE: "cosine",
    ScoringFunction.DOT_PRODUCT: "ip",
    ScoringFunction.EUCLIDEAN: "l2",
}


class Searched(NamedTuple):
    """One search, for those who watch it."""

    split: str
    subset: str
    run: Mapping[str, Mapping[str, float]]  # query id -> document id -> score
    built: Index | None = None
    queries: Vectors | None = None


class QuantizedModel:
    """An encoder, and how its vectors are stored and searched, as one model for `mteb.evaluate`.

    `model` is a `SentenceTransformer`, a `SentenceEncoder`, or an encoder of mteb's; `system` a quantizer or a
    `qindex.evaluate.System`. In retrieval tasks documents are searched in the index, by the model's own similarity, and
    a `reranker` reads the `depth` best; in other tasks the model's vectors come back decoded, by a quantizer that was
    fitted to the first texts of the task, unless it is fitted already.

    Vectors are kept in `folder`, as memory-mapped files: systems that share it encode a task once, and an interrupted
    run goes on. Without a folder, they are kept until the model is gone.

    Model, quantizers, index and reranker are named in mteb's `experiment_kwargs`, so results of one never count for
    another. A reranker tells what it is by an `identity`, as those of qindex do.
    """

    def __init__(
        self,
        model: Any,
        system: System | Quantizer | None = None,
        *,
        reranker: Reranker | None = None,
        depth: int | None = None,
        folder: PathLike | None = None,
    ) -> None:
        if depth is not None and (reranker is None or depth < 1):
            raise ValueError(f"depth is for a reranker, and at least 1, got {depth} and {reranker!r}")
        self.system = system if isinstance(system, System) else System(Int8() if system is None else system)
        self.reranker, self.depth = reranker, depth or DEPTH
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="qindex-")
            folder = self._temporary.name
        self.encoder = StoredEncoder(model, folder)
        meta = self.encoder.mteb_model_meta
        if meta.similarity_fn_name not in _METRICS:
            raise ValueError(
                f"model must be compared by cosine, dot product or distance, got {meta.similarity_fn_name}"
            )
        self.metric = _METRICS[meta.similarity_fn_name]
        self.mteb_model_meta = _described(meta, self.system, reranker, self.depth)
        self.watch: Callable[[Searched], None] = lambda searched: None
        self._documents: Any = None
        self._ids: list[str] = []
        self._index: Index | None = None
        self._quantizers: dict[str, Quantizer] = {}

    @property
    def bytes_per_vector(self) -> int:
        """Codes and scales of a vector, once there are some."""
        return self.system.bytes_per_vector(self.encoder.dim)

    # --- retrieval: mteb's SearchProtocol ---------------------------------------------------------------------------

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any],
        num_proc: int | None = None,
        **_: Any,
    ) -> None:
        """Encode the documents of a task, or open what was encoded, and build the index.

        Raises ValueError for no documents, and for an id that comes twice.
        """
        ids = list(corpus["id"])
        if not ids:
            raise ValueError(f"task {task_metadata.name} has no documents")
        if len(set(ids)) < len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            raise ValueError(f"task {task_metadata.name} must name each document once, {twice!r} comes twice")
        vectors, self._documents = self._encoded(
            corpus, PromptType.document, task_metadata, hf_split, hf_subset, encode_kwargs, num_proc
        )
        self._ids, self._index = ids, self.system.build(vectors, self.metric)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Mapping[str, Any],
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Query id -> document id -> score, of the `top_k` best, or of all that `top_ranked` names.

        Scores of a query are all different: what ties, mteb would put in the order of its ids, and the index has an
        order of its own. Those of reranked documents are numbers of places, from the last to the first.
        """
        if self._index is None:
            raise ValueError("a corpus must be indexed before it is searched: call index first")
        if not len(queries):
            raise ValueError(f"task {task_metadata.name} must judge at least one query, got none")
        vectors, asked = self._encoded(
            queries, PromptType.query, task_metadata, hf_split, hf_subset, encode_kwargs, num_proc
        )
        names, query_ids = self._ids, list(queries["id"])
        if top_ranked is None:
            k = min(top_k, len(self._index))
            ids, scores = self.system.search(self._index, vectors, k)
        else:
            ids, scores = self._ranked(vectors, query_ids, top_ranked)
        scores = strictly_decreasing(scores)
        results = {}
        for row, query in enumerate(query_ids):
            found = [(int(i), float(s)) for i, s in zip(ids[row], scores[row], strict=True) if i >= 0]
            if self.reranker is not None:
                found = self._reranked(asked[row]["text"], found)
            results[query] = {names[i]: score for i, score in found}
        self.watch(Searched(hf_split, hf_subset, results, self._index, vectors))
        return results

    def _ranked(
        self, vectors: Vectors, query_ids: list[str], top_ranked: Mapping[str, Sequence[str]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The documents that each query is given, in order."""
        assert self._index is not None
        rows = {id: row for row, id in enumerate(self._ids)}
        allowed = [np.array([rows[id] for id in top_ranked.get(query, ())], np.int64) for query in query_ids]
        k = max(1, *map(len, allowed))
        found = self._index.search(vectors, k, allow=allowed)
        return found.ids, found.scores

    def _reranked(self, query: str, found: list[tuple[int, float]]) -> list[tuple[int, float]]:
        assert self.reranker is not None
        first = [Hit(i, score, self._documents[i]["text"]) for i, score in found[: self.depth]]
        ordered = rerank(self.reranker, query, first, max(1, len(first)), progress=False) if first else []
        ids = [hit.id for hit in ordered] + [i for i, _ in found[self.depth :]]
        return [(i, float(len(ids) - place)) for place, i in enumerate(ids)]

    def _encoded(
        self,
        dataset: Any,
        prompt_type: Any,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any],
        num_proc: int | None,
    ) -> tuple[Vectors, Any]:
        """Vectors of documents or queries, and their rows as mteb hands them to models."""
        loader = create_dataloader(
            dataset,
            task_metadata=task_metadata,
            prompt_type=prompt_type,
            batch_size=encode_kwargs.get("batch_size", 32),
            num_proc=num_proc,
        )
        vectors = self.encoder.encode(
            loader,
            task_metadata=task_metadata,
            hf_split=hf_split,
            hf_subset=hf_subset,
            prompt_type=prompt_type,
            **encode_kwargs,
        )
        return vectors, loader.dataset

    # --- other tasks: mteb's EncoderProtocol ------------------------------------------------------------------------

    def encode(self, inputs: DataLoader[Any], *, task_metadata: Any, **kwargs: Any) -> Vectors:
        """The vectors of all inputs as they are after decoding, (n, dim) float32."""
        vectors = self.encoder.encode(inputs, task_metadata=task_metadata, **kwargs)
        if task_metadata.name not in self._quantizers:
            quantizer = self.system.rescore or self.system.quantizer
            self._quantizers[task_metadata.name] = quantizer if quantizer.fitted else quantizer.fit(vectors)
        quantizer = self._quantizers[task_metadata.name]
        codes: Codes = quantizer.quantize(vectors)
        return quantizer.dequantize(codes)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The scores of all pairs, as the model has them."""
        return self.encoder.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The scores of aligned pairs, as the model has them."""
        return self.encoder.similarity_pairwise(embeddings1, embeddings2)


class RerankerModel:
    """A reranker as mteb's cross-encoder: for tasks of reranking, and after `task.convert_to_reranking(...)`.

    `name` is what results are kept under, with the reranker's own `identity`.
    """

    def __init__(self, reranker: Reranker, name: str) -> None:
        self.reranker = reranker
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name if "/" in name else f"qindex/{name}",
                "revision": version("qindex"),
                "model_type": ["cross-encoder"],
                "experiment_kwargs": {"reranker": _identity(reranker)},
            }
        )

    def predict(self, inputs1: DataLoader[Any], inputs2: DataLoader[Any], **_: Any) -> NDArray[np.float32]:
        """The scores of aligned queries and documents, (n,) float32."""
        queries, documents = ([text for batch in side for text in batch["text"]] for side in (inputs1, inputs2))
        scores = [np.empty(0, np.float32)]
        pairs = zip(queries, documents, strict=True)
        for query, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            scores.append(self.reranker.score(query, [document for _, document in group]))
        return np.concatenate(scores)


def strictly_decreasing(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores (m, k), best first, with each that ties with the one before lowered to the next float32."""
    lowered = scores.copy()
    for place in range(1, lowered.shape[1]):
        below = np.nextafter(lowered[:, place - 1], np.float32(-np.inf))
        np.minimum(lowered[:, place], below, out=lowered[:, place])
    return lowered


def _described(meta: Any, system: System, reranker: Reranker | None, depth: int) -> Any:
    """The model's description with everything that results depend on."""
    kwargs = dict(meta.experiment_kwargs or {})
    kwargs |= {"qindex": version("qindex"), "system": system.name, "quantizer": _content(system)}
    if reranker is not None:
        kwargs |= {"reranker": _identity(reranker), "depth": depth}
    return meta.model_copy(update={"experiment_kwargs": kwargs})


def _identity(reranker: Reranker) -> str:
    identity = getattr(reranker, "identity", None)
    if not isinstance(identity, str):
        raise ValueError(
            "reranker must have an identity, a string that tells its scores from others', under which results are "
            f"kept: give {type(reranker).__name__} one"
        )
    return identity


def _content(system: System) -> str:
    """Tells quantizers apart, by what they have learnt before too."""
    sha256 = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        for quantizer in (system.quantizer, system.rescore):
            if quantizer is not None:
                file = Path(folder) / "quantizer.qindex"
                io.save(file, quantizer)
                sha256.update(file.read_bytes())
    return sha256.hexdigest()[:12]
