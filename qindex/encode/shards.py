"""A corpus of any length, encoded to a folder of quantized shards; a killed run is resumed.

    plan.qindex            what the folder is for: encoder, shard size, the quantizer as it was given
    quantizer.qindex       the quantizer, fitted on the vectors of the first shard
    shard-000000.qindex    codes of the texts 0 to shard_size - 1, and so on; the last may be shorter
    complete.qindex        written last: the corpus ends here

Every file is written entirely or not at all, so whatever is there is whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

import qindex.quantize  # noqa: F401 - registers the kinds of quantizers that a folder may hold
from qindex.io import FormatError, PathLike, load, register, save
from qindex.types import Codes, Encoder, Quantizer, Vectors, as_texts, as_vectors

_PLAN, _QUANTIZER, _COMPLETE = "plan.qindex", "quantizer.qindex", "complete.qindex"

# Texts that the encoder gets at once: enough to sort by length, few enough for the progress bar to move.
_ENCODED_AT_ONCE = 2048

T = TypeVar("T")

_log = logging.getLogger(__name__)


@register("ShardPlan")
@dataclass(frozen=True, slots=True, eq=False)
class ShardPlan:
    """What a folder of shards is for."""

    encoder_identity: str
    shard_size: int
    quantizer: Quantizer  # as it was given, perhaps unfitted


@register("Shard")
@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """The codes of consecutive texts of a corpus."""

    codes: Codes
    first: int  # number of the first text in the corpus
    texts_sha256: str  # of all texts of the corpus up to the last one here

    def __post_init__(self) -> None:
        if not isinstance(self.codes, Codes):
            raise TypeError(f"codes must be Codes, got {type(self.codes).__name__}")


@register("ShardsComplete")
@dataclass(frozen=True, slots=True)
class ShardsComplete:
    """The marker of a complete folder."""

    n: int  # texts
    n_shards: int
    texts_sha256: str  # of all texts

    def __post_init__(self) -> None:
        if not isinstance(self.n_shards, int):
            raise TypeError(f"n_shards must be an integer, got {self.n_shards!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """A corpus as `encode_to` left it: `FlatIndex.from_codes(shards.quantizer, Codes.concatenate(shards.codes))`."""

    quantizer: Quantizer
    codes: list[Codes]  # one for each shard, memory-mapped
    encoder_identity: str

    @property
    def n(self) -> int:
        """Number of texts."""
        return sum(map(len, self.codes))


def encode_to(
    path: PathLike,
    texts: Iterable[str],
    encoder: Encoder,
    quantizer: Quantizer,
    *,
    shard_size: int = 16_384,
    progress: bool | None = None,
) -> Shards:
    """Encode and quantize a corpus into the folder `path`, one shard at a time, and open it.

    `texts` is read once, `shard_size` texts at a time, and may be a generator. An unfitted quantizer is fitted on the
    first shard: if the corpus is sorted by subject, give a quantizer that was fitted on a sample of all of it.

    After a kill, the same call resumes: it reads the texts again from the start, checks those of the shards that are
    there against their hash and encodes the rest; the files are those of a run that was not killed. Where everything
    is there, nothing is encoded. `progress=None` shows a bar on a terminal.

    Raises ValueError for an empty corpus and, before anything is changed, where the folder was begun with another
    encoder, quantizer, shard size or corpus, or is not a folder of shards; FormatError where files of it are missing.
    Raises TypeError for a bare string, and for a text that is not a string when it is reached; the shards before it
    stay.
    """
    folder = Path(path)
    if isinstance(texts, str):
        as_texts(texts)  # says what to pass instead
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    plan = ShardPlan(encoder.identity, shard_size, quantizer)
    _check_folder(folder, plan)
    kept = _kept_shards(folder)
    is_complete = (folder / _COMPLETE).exists()

    sha256 = hashlib.sha256()
    n = n_shards = 0
    total = len(texts) if isinstance(texts, Sized) else None
    with tqdm(total=total, unit="text", desc="encode", disable=None if progress is None else not progress) as bar:
        for batch in _batches(texts, shard_size):
            for text in as_texts(batch, f"texts[{n}:]"):
                sha256.update(_hashed(text))
            file = _shard_file(folder, n_shards)
            if n_shards < kept:
                shard = _load(file, Shard)
                if (shard.first, len(shard.codes), shard.texts_sha256) != (n, len(batch), sha256.hexdigest()):
                    raise _other_corpus(folder, f"texts {n} to {n + len(batch) - 1} or texts before them differ")
                bar.update(len(batch))
            elif is_complete:
                raise _other_corpus(folder, f"it is complete with {n} texts, and texts has more")
            else:
                vectors = _encode(batch, encoder, bar)
                if n_shards == 0:
                    _begin(folder, plan, vectors)
                codes = _load_quantizer(folder).quantize(vectors)
                save(file, Shard(codes, n, sha256.hexdigest()))
                _log.info("wrote %s: texts %d to %d", file, n, n + len(batch) - 1)
            n += len(batch)
            n_shards += 1

    if n == 0:
        raise ValueError("texts is empty: there is nothing to encode")
    if n_shards < kept:
        raise _other_corpus(folder, f"it has more than the {n} texts of texts")
    for leftover in folder.glob(".*.tmp"):  # half a file, from a run that was killed while writing it
        leftover.unlink()
    if not is_complete:
        save(folder / _COMPLETE, ShardsComplete(n, n_shards, sha256.hexdigest()))
    return open_shards(folder)


def open_shards(path: PathLike) -> Shards:
    """Open a folder that `encode_to` has completed; the codes are memory-mapped.

    Raises ValueError for an unfinished folder or another one, FormatError where files are missing or do not belong
    together.
    """
    folder = Path(path)
    if not (folder / _PLAN).exists():
        raise ValueError(f"path must be a folder that encode_to wrote, but {folder} has no {_PLAN}")
    kept = _kept_shards(folder)
    if not (folder / _COMPLETE).exists():
        raise ValueError(
            f"{folder} is unfinished, with {kept} shards so far; to finish it, call encode_to again as before"
        )
    complete = _load(folder / _COMPLETE, ShardsComplete)
    codes: list[Codes] = []
    n, sha256 = 0, ""
    for number in range(complete.n_shards):
        file = _shard_file(folder, number)
        shard = _load(file, Shard)
        if shard.first != n:
            raise FormatError(f"{file} begins with text {shard.first}, but the shards before it hold {n} texts")
        codes.append(shard.codes)
        n, sha256 = n + len(shard.codes), shard.texts_sha256
    if (n, sha256) != (complete.n, complete.texts_sha256):
        raise FormatError(f"{folder} must hold {complete.n} texts, but its shards are of another corpus, with {n}")
    return Shards(_load_quantizer(folder), codes, _load(folder / _PLAN, ShardPlan).encoder_identity)


def _check_folder(folder: Path, plan: ShardPlan) -> None:
    """Refuse a folder that was begun for something else."""
    if not folder.exists():
        return
    if not (folder / _PLAN).exists():
        # A run that was killed while writing the plan has left no more than a temporary file of it.
        if not folder.is_dir() or {*folder.iterdir()} - {*folder.glob(f".{_PLAN}.*.tmp")}:
            raise ValueError(f"path must be a new or empty folder, or one that encode_to began; {folder} is none")
        return
    begun = _load(folder / _PLAN, ShardPlan)
    for name in ("encoder_identity", "shard_size", "quantizer"):
        then, now = getattr(begun, name), getattr(plan, name)
        if not _equal(then, now):
            got = f"{now!r}, fitted otherwise" if repr(then) == repr(now) else repr(now)
            raise ValueError(f"{folder} was begun with {name} {then!r}, got {got}; pass that one or another path")


def _kept_shards(folder: Path) -> int:
    """How many shards are there, all of them the first ones."""
    found = {*folder.glob("shard-*.qindex")}
    n_shards = _load(folder / _COMPLETE, ShardsComplete).n_shards if (folder / _COMPLETE).exists() else len(found)
    for number in range(n_shards):
        if _shard_file(folder, number) not in found:
            raise FormatError(f"{_shard_file(folder, number)} is missing: restore it, or encode to another path")
    return len(found)


def _equal(a: Any, b: Any) -> bool:
    """Whether two quantizers, or fields of them, hold the same."""
    if dataclasses.is_dataclass(a):
        fields = [field.name for field in dataclasses.fields(a) if field.init]
        return type(a) is type(b) and all(_equal(getattr(a, name), getattr(b, name)) for name in fields)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return np.array_equal(a, b)


def _begin(folder: Path, plan: ShardPlan, vectors: Vectors) -> None:
    """Write what all shards need. The plan comes first: a folder without one is not ours."""
    fitted = plan.quantizer if plan.quantizer.fitted else plan.quantizer.fit(vectors)
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / _PLAN, plan)
    save(folder / _QUANTIZER, fitted)


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(texts)
    while batch := list(islice(rest, size)):
        yield batch


def _encode(batch: Sequence[str], encoder: Encoder, bar: tqdm[Any]) -> Vectors:
    parts = []
    for start in range(0, len(batch), _ENCODED_AT_ONCE):
        texts = batch[start : start + _ENCODED_AT_ONCE]
        vectors = as_vectors(encoder.encode_document(texts), "the encoder's vectors", encoder.dim)
        if len(vectors) != len(texts):
            raise ValueError(f"encoder must give one vector for each text, got {len(vectors)} for {len(texts)} texts")
        parts.append(vectors)
        bar.update(len(texts))
    return np.concatenate(parts)


def _hashed(text: str) -> bytes:
    # The length tells ["ab", "c"] from ["a", "bc"]; surrogates occur in text that was decoded leniently.
    content = text.encode("utf-8", "surrogatepass")
    return len(content).to_bytes(8, "little") + content


def _load(file: Path, kind: type[T]) -> T:
    found = load(file)
    if not isinstance(found, kind):
        raise FormatError(f"{file} must hold a {kind.__name__}, got a {type(found).__name__}")
    return found


def _load_quantizer(folder: Path) -> Quantizer:
    found = load(folder / _QUANTIZER)
    if not isinstance(found, Quantizer):
        raise FormatError(f"{folder / _QUANTIZER} must hold a quantizer, got a {type(found).__name__}")
    return found


def _shard_file(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.qindex"


def _other_corpus(folder: Path, difference: str) -> ValueError:
    return ValueError(
        f"{folder} holds another corpus: {difference}; "
        "pass the texts it was begun with, in the same order, or another path"
    )
