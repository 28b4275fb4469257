"""Dense vectors of texts, by any sentence-transformers model."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qindex.encode.shards import Shards, encode_to
from qindex.io import PathLike
from qindex.types import Quantizer, Vectors, as_texts, row_norms

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from qindex.lowbit import Plan

# The files of a model folder that decide its vectors: read-me files and the same weights in other forms do not.
_MODEL_FILES = (
    "modules.json", "*config.json", "tokenizer*.json", "vocab.*", "*.model",
    "*.safetensors", "pytorch_model*.bin", "adapter_model*.bin",
)  # fmt: skip
_SAMPLE_BYTES, _SAMPLES = 1 << 16, 256


class SentenceEncoder:
    """Texts to float32 vectors, by a sentence-transformers model and its own prompts.

    `model` is a name on the Hugging Face hub, a local folder, a file of `lowbit.save`, or a loaded
    `SentenceTransformer`. `normalize` scales the vectors to length 1, after `truncate_dim` has kept their first numbers
    (for models trained for that). `device` is torch's ("cpu", "cuda"); None takes what sentence-transformers finds.
    `progress` shows bars: None does on a terminal, where there is more than one batch.

    With a `plan` (`lowbit.Plan.default(bits)`), the model runs in few bits, through the kernels of the indexes, and a
    text has the same vector, to the bit, alone and in any batch. Recipes that need calibration:
    `SentenceEncoder(lowbit.quantize(model, plan, texts))`.

    `identity` names the vector space by the content of the model, not by its name or place: files for a folder or a
    hub name; for a loaded model, its weights and modules in memory. The latter holds for one version of
    sentence-transformers and differs from that of the same model's folder: pass the folder to encode for storage.

    Code that comes with a model is never run: load such a model yourself, and pass it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | SentenceTransformer,
        *,
        normalize: bool = True,
        truncate_dim: int | None = None,
        device: str | None = None,
        batch_size: int = 32,
        plan: Plan | None = None,
        progress: bool | None = None,
    ) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError("SentenceEncoder needs sentence-transformers: pip install 'qindex[encode]'") from error
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(model, SentenceTransformer):
            if device is not None:
                raise ValueError(f"device is for a model that is loaded here; move yours: model.to({device!r})")
            loaded, fingerprint = model, fingerprint_in_memory(model)
        elif isinstance(model, str | os.PathLike) and os.path.isfile(model):
            loaded, fingerprint = _load_file(Path(model)), f"lowbit-{_digest({'': Path(model)})}"
            loaded = loaded if device is None else loaded.to(device)
        elif isinstance(model, str | os.PathLike):
            with loading_bar(on_terminal() if progress is None else progress):
                loaded = _load(model, device)
            folder = Path(model) if os.path.isdir(model) else _hub_folder(os.fspath(model))
            fingerprint = fingerprint_in_memory(loaded) if folder is None else _fingerprint(folder)
        else:
            raise TypeError(f"model must be a name, a folder or a SentenceTransformer, got {type(model).__name__}")
        if plan is not None:
            from qindex.lowbit import quantize

            loaded = quantize(loaded, plan, progress=progress)
            fingerprint += f" plan={hashlib.sha256(repr(plan).encode()).hexdigest()[:16]}"

        # Some models do not know their dim, so one text is encoded to learn it.
        width = loaded.encode_document(["dim"], show_progress_bar=False).shape[1]
        if truncate_dim is not None and not 1 <= truncate_dim <= width:
            raise ValueError(f"truncate_dim must be 1 to {width}, the dim of the model, got {truncate_dim}")
        self._model = loaded
        self._normalize = normalize
        self._dim = truncate_dim or width
        self._batch_size = batch_size
        self._progress = progress
        prompts = hashlib.sha256(json.dumps([loaded.prompts, loaded.default_prompt_name], sort_keys=True).encode())
        self._identity = (
            f"sentence-transformers {fingerprint} dim={self._dim} normalize={bool(normalize)} "
            f"prompts={prompts.hexdigest()[:8]}"
        )

    @property
    def dim(self) -> int:
        """Numbers per vector."""
        return self._dim

    @property
    def identity(self) -> str:
        """Names the vector space: encoders of equal identity give vectors that may be compared."""
        return self._identity

    def encode_document(self, texts: Sequence[str]) -> Vectors:
        """Encode what is searched in: n texts -> (n, dim) float32. Raises TypeError for a bare string.

        An empty text is what the model makes of it (most encode their start and end marks). A vector of zeros stays
        one under `normalize`. Raises ValueError where the model gives NaN or infinity.
        """
        return self._encode(self._model.encode_document, texts)

    def encode_query(self, texts: Sequence[str]) -> Vectors:
        """Encode what is searched for, as `encode_document` encodes documents; models with prompts differ in them."""
        return self._encode(self._model.encode_query, texts)

    def encode_to(
        self,
        path: PathLike,
        texts: Iterable[str],
        quantizer: Quantizer,
        *,
        shard_size: int = 16_384,
        progress: bool | None = None,
    ) -> Shards:
        """Encode and quantize a corpus of any length into a folder; see `qindex.encode.shards.encode_to`."""
        quiet = copy.copy(self)
        quiet._progress = False  # one bar for the corpus, not one for each part of it
        return encode_to(path, texts, quiet, quantizer, shard_size=shard_size, progress=progress)

    def _encode(self, encode: Callable[..., NDArray[Any]], texts: Sequence[str]) -> Vectors:
        texts = as_texts(texts)
        if not texts:
            return np.empty((0, self._dim), np.float32)
        show = self._progress
        if show is None:
            show = on_terminal() and len(texts) > self._batch_size
        # sentence-transformers sorts the texts of one call by length before it cuts them into batches.
        raw = encode(texts, batch_size=self._batch_size, show_progress_bar=show, truncate_dim=self._dim)
        vectors = np.ascontiguousarray(raw, np.float32)
        norms = row_norms(vectors)
        if not np.isfinite(norms).all():
            row = int(np.argmin(np.isfinite(norms)))
            raise ValueError(f"the model gives NaN or infinity for texts[{row}], {texts[row][:40]!r}; leave it out")
        if self._normalize:
            # Here rather than in the model, whose numbers may be of half precision.
            vectors /= np.where(norms > 0, norms, 1)[:, None].astype(np.float32)
        return vectors


def _load(model: str | os.PathLike[str], device: str | None) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    if isinstance(model, os.PathLike) and not os.path.isdir(model):
        raise ValueError(f"model must be an existing folder if it is a path, got {os.fspath(model)!r}")
    try:
        return SentenceTransformer(os.fspath(model), device=device)
    except OSError as error:
        raise ValueError(
            f"model must be a folder with a model or a name on the hub, got {os.fspath(model)!r}: {error}"
        ) from error


def _load_file(path: Path) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    from qindex.lowbit import load

    found = load(path)
    if not isinstance(found, SentenceTransformer):
        raise ValueError(
            f"model must be a SentenceTransformer, but {path} holds a {type(found).__name__}: quantize and save the "
            "whole SentenceTransformer, with its pooling"
        )
    return found


def on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def loading_bar(show: bool) -> Iterator[None]:
    """transformers shows a bar while it loads, terminal or not."""
    from transformers.utils import logging

    bars: Any = logging  # whose functions carry no types
    if show or not bars.is_progress_bar_enabled():
        yield
        return
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()


def _hub_folder(name: str) -> Path | None:
    """Where the hub's cache holds a model that has just been loaded."""
    from huggingface_hub import try_to_load_from_cache

    cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    for repository in (name, f"sentence-transformers/{name}") if "/" not in name else (name,):
        for file in ("modules.json", "config.json"):
            found = try_to_load_from_cache(repository, file, cache_dir=cache)
            if isinstance(found, str):
                return Path(found).parent
    return None


def _fingerprint(folder: Path) -> str:
    """The content of a model's files, wherever they lie."""
    files = {file.relative_to(folder).as_posix(): file for pattern in _MODEL_FILES for file in folder.rglob(pattern)}
    for name, file in list(files.items()):
        training_record = file.name == "data_config.json"  # which sentence-transformers does not read
        if training_record or (file.suffix == ".bin" and any(file.parent.glob("*.safetensors"))):
            del files[name]
    return _digest(files)


def _digest(files: Mapping[str, Path]) -> str:
    """Names and content of files."""
    sha256 = hashlib.sha256()
    for name, file in sorted(files.items()):
        sha256.update(f"{name} {file.stat().st_size}\n".encode())
        for sample in _samples(file):
            sha256.update(sample)
    return sha256.hexdigest()[:32]


def _samples(file: Path) -> Iterator[bytes]:
    """All of a file of up to 16 MiB, and 16 MiB spread evenly over a larger one."""
    size = file.stat().st_size
    with open(file, "rb") as content:
        for begin in range(0, size, max(size // _SAMPLES, _SAMPLE_BYTES)):
            content.seek(begin)
            yield content.read(_SAMPLE_BYTES)


def fingerprint_in_memory(model: SentenceTransformer) -> str:
    """The modules of a loaded model, and the beginning and end of each of its weights."""
    from qindex.lowbit.fingerprint import add_weights

    sha256 = hashlib.sha256(f"{model} {model.max_seq_length}".encode())
    # Where a checkpoint has no pooler, transformers makes one up at random, and nothing reads it.
    add_weights(sha256, model, unread=".pooler.")
    return f"in-memory-{sha256.hexdigest()[:32]}"
