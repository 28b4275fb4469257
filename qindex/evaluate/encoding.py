"""Vectors of the texts of a task, encoded once and kept in a folder, whatever is measured on them afterwards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from mteb.models import ModelMeta, SentenceTransformerEncoderWrapper
from mteb.models.model_meta import ScoringFunction
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from qindex.encode.sentence import SentenceEncoder, fingerprint_in_memory
from qindex.index.metric import normalised
from qindex.io import PathLike
from qindex.types import Vectors, as_vectors

# Rows that are encoded, and then safe on disk, together.
BLOCK = 2048
# What the wrappers of mteb put before texts, beside the prompts of the model that they hold.
_PROMPTS = ("model_prompts", "prompts_dict", "instruction_template", "apply_instruction_to_passages")


class StoredEncoder:
    """An encoder of mteb's whose vectors are memory-mapped files of a folder; what is there is not encoded again.

    `model` is a `SentenceTransformer`, a `SentenceEncoder`, or any encoder that `mteb.evaluate` takes. A file belongs
    to one list of texts, for one task and kind of prompt, by one model: all of these are in its name. It is written
    block by block, and a run that was interrupted goes on with the block that it was at. One process at a time may
    write.
    """

    def __init__(self, model: Any, folder: PathLike) -> None:
        self.model = as_encoder(model)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.identity = _identity(self.model)
        self.mteb_model_meta = named(self.model.mteb_model_meta, self.identity)
        self.dim = 0  # of the vectors, once there are some

    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        show_progress_bar: bool = True,
        **kwargs: Any,
    ) -> Vectors:
        """The vectors of all inputs, (n, dim) float32, read-only.

        Raises ValueError for inputs without text, and where the model gives NaN or infinity.
        """
        rows: Any = inputs.dataset
        if "text" not in rows.column_names:
            raise ValueError(
                f"task must be of texts, {task_metadata.name} has {', '.join(rows.column_names)}: other inputs are not "
                "encoded here"
            )
        if not len(rows):
            raise ValueError(f"task {task_metadata.name} must have texts to encode, got none")
        kind = "" if prompt_type is None else prompt_type.value
        settings = (self.identity, task_metadata.name, kind, str(kwargs.get("precision")))
        file = self.folder / f"{task_metadata.name}-{kind or 'texts'}-{_digest(settings, rows)}.npy"

        def encode(part: slice) -> Vectors:
            some = rows.select(range(part.start, part.stop))
            loader = DataLoader(some, batch_size=inputs.batch_size, collate_fn=inputs.collate_fn)
            found = self.model.encode(
                loader,
                task_metadata=task_metadata,
                hf_split=hf_split,
                hf_subset=hf_subset,
                prompt_type=prompt_type,
                show_progress_bar=False,
                **kwargs,
            )
            if isinstance(found, torch.Tensor):
                found = found.detach().to("cpu", torch.float32)
            return as_vectors(np.asarray(found, np.float32), numbers=range(part.start, part.stop))

        vectors = kept(file, len(rows), encode, f"encode {task_metadata.name}", None if show_progress_bar else False)
        self.dim = vectors.shape[1]
        return vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The scores of all pairs, as the model has them."""
        return self.model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The scores of aligned pairs, as the model has them."""
        return self.model.similarity_pairwise(embeddings1, embeddings2)


def kept(file: Path, n: int, encode: Callable[[slice], Vectors], what: str, progress: bool | None = None) -> Vectors:
    """The (n, dim) float32 rows of an .npy file; `encode` makes those that are missing, a block at a time."""
    if not file.exists():
        partial = file.with_suffix(".partial")
        partial.touch()
        with open(partial, "r+b") as out, tqdm(
            total=n, desc=what, unit="text", disable=None if progress is None else not progress
        ) as bar:  # fmt: skip
            done = _resumed(out, n)
            bar.update(done)
            for start in range(done, n, BLOCK):
                rows = encode(slice(start, min(start + BLOCK, n)))
                if len(rows) != min(BLOCK, n - start):
                    raise ValueError(
                        f"model must give a vector for each text, got {len(rows)} for {min(BLOCK, n - start)}"
                    )
                if start == 0:
                    header = {"descr": "<f4", "fortran_order": False, "shape": (n, rows.shape[1])}
                    np.lib.format.write_array_header_1_0(out, header)
                out.write(np.ascontiguousarray(rows, "<f4").tobytes())
                out.flush()
                os.fsync(out.fileno())
                bar.update(len(rows))
        partial.replace(file)
    try:
        found: Vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} must hold {n} rows of float32: {error}; delete it") from None
    if found.ndim != 2 or len(found) != n or found.dtype != np.float32:
        raise ValueError(f"{file} must hold {n} rows of float32, it has {found.dtype} {found.shape}: delete it")
    return found


def _resumed(file: BinaryIO, n: int) -> int:
    """The rows that a partial file holds for sure; it is cut behind them."""
    done, end = 0, 0
    try:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
        header = file.tell()
        whole = (file.seek(0, os.SEEK_END) - header) // (4 * shape[1]) // BLOCK
        if shape[0] == n and whole > 1:  # of the last block, a power failure may have left zeros
            done = (whole - 1) * BLOCK
            end = header + done * 4 * shape[1]
    except ValueError:  # not even a header
        pass
    file.truncate(end)
    file.seek(end)
    return done


def as_encoder(model: Any) -> Any:
    """The encoder of mteb's that stands for a model."""
    from sentence_transformers import SentenceTransformer

    if isinstance(model, StoredEncoder):
        return model.model
    if isinstance(model, SentenceTransformer):
        return SentenceTransformerEncoderWrapper(model)
    if isinstance(model, SentenceEncoder):
        return _Ours(model)
    if all(hasattr(model, name) for name in ("encode", "similarity", "mteb_model_meta")):
        return model
    raise TypeError(
        "model must be a SentenceTransformer, a SentenceEncoder or an encoder of mteb's (mteb.get_model), "
        f"got {type(model).__name__}"
    )


def named(meta: Any, identity: str) -> Any:
    """The description of a model with its content and similarity, so that no other has its results."""
    told = hashlib.sha256(f"{identity} {meta.similarity_fn_name}".encode()).hexdigest()[:16]
    updates: dict[str, Any] = {"experiment_kwargs": {**(meta.experiment_kwargs or {}), "model": told}}
    if meta.name in (None, "", "no_model_name/available"):
        updates["name"] = "local/SentenceTransformer"
    if meta.revision in (None, "", "no_revision_available"):
        updates["revision"] = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return meta.model_copy(update=updates)


class _Ours:
    """A `SentenceEncoder` as mteb asks for one. Its own prompts hold, for all tasks."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self._encoder = encoder
        self.identity = encoder.identity
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": "qindex/SentenceEncoder",
                "embed_dim": encoder.dim,
                "similarity_fn_name": ScoringFunction.COSINE,
                "loader": None,
            }
        )

    def encode(self, inputs: DataLoader[Any], *, prompt_type: Any = None, **_: Any) -> Vectors:
        texts: Sequence[str] = [text for batch in inputs for text in batch["text"]]
        asked = prompt_type is not None and prompt_type.value == "query"
        return self._encoder.encode_query(texts) if asked else self._encoder.encode_document(texts)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        first, second = (_unit(side) for side in (embeddings1, embeddings2))
        return torch.from_numpy(first @ second.T)  # a tensor of one score is a number; an array is not

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> NDArray[np.float32]:
        first, second = (_unit(side) for side in (embeddings1, embeddings2))
        scores: NDArray[np.float32] = np.einsum("nd,nd->n", first, second)
        return scores


def _unit(vectors: Any) -> Vectors:
    return normalised(np.atleast_2d(np.asarray(vectors, np.float32)))


def _identity(encoder: Any) -> str:
    """What tells a model's vectors from another's: its content where that is at hand, else its name and revision."""
    from sentence_transformers import SentenceTransformer

    if isinstance(encoder, _Ours):
        return encoder.identity
    inner = getattr(encoder, "model", None)
    if isinstance(inner, SentenceTransformer):
        prompts = [getattr(encoder, name, None) for name in _PROMPTS]
        told = [inner.prompts, inner.default_prompt_name, *(getattr(one, "__qualname__", one) for one in prompts)]
        return f"{fingerprint_in_memory(inner)} {told} {inner.truncate_dim}"
    meta = encoder.mteb_model_meta
    return f"{meta.name} {meta.revision} {meta.experiment_name} {meta.embed_dim}"


def _digest(settings: Sequence[str], rows: Any) -> str:
    sha256 = hashlib.sha256(repr(settings).encode())
    for start in range(0, len(rows), BLOCK):
        for text in rows[start : start + BLOCK]["text"]:
            content = str(text).encode("utf-8", "surrogatepass")
            sha256.update(b"%d " % len(content) + content)
    return sha256.hexdigest()[:32]
