"""What a measurement of systems found, as a value that is saved, read, put in order and shown."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from qindex import kernels
from qindex.evaluate.metrics import Interval
from qindex.io import FormatError, PathLike, replacing

FORMAT, FORMAT_VERSION = "qindex report", 1
ID_BYTES = 8  # which the bytes of a vector leave out


@dataclass(frozen=True)
class Row:
    """One system. Larger scores are better; a loss is what the reference scores more."""

    name: str
    family: str  # what is drawn alike: the kind of index, or whose system it is
    score: float
    bytes_per_vector: float  # codes and scales of a vector, with its part of lists and links
    code: str = ""  # what builds it
    interval: tuple[float, float] | None = None  # of the score, for other queries of the same kind
    loss: Interval | None = None  # beside the reference, on the same queries
    parts: Mapping[str, float] = field(default_factory=dict)  # the score on each task
    index_bytes: int | None = None  # all that the index holds
    latency_ms: float | None = None  # the median of one query at a time


@dataclass(frozen=True)
class Report:
    """Systems measured in one run: `qindex report` shows what `qindex mteb` and `qindex tune` save."""

    title: str
    measure: str  # of the scores: "nDCG@10"
    rows: Sequence[Row]
    reference: str = ""  # the name of the row that losses refer to
    choice: str = ""  # the name of the row that is recommended
    commands: Sequence[str] = ()  # what reproduces it
    notes: Sequence[str] = ()  # a sentence each
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names) or "" in names:
            raise ValueError(f"rows must have names of their own, got {names}")
        for name, value in (("reference", self.reference), ("choice", self.choice)):
            if value and value not in names:
                raise ValueError(f"{name} must be the name of a row, got {value!r}")

    def front(self, cost: Callable[[Row], float | None]) -> list[Row]:
        """The rows that no other beats in score without costing more, cheapest first; those without a cost are out."""
        costs = [(value, -row.score, row) for row in self.rows if (value := cost(row)) is not None]
        best, kept = -math.inf, []
        for _, _, row in sorted(costs, key=lambda one: one[:2]):
            if row.score > best:
                best = row.score
                kept.append(row)
        return kept

    def storage_front(self) -> list[Row]:
        return self.front(lambda row: row.bytes_per_vector)

    def latency_front(self) -> list[Row]:
        return self.front(lambda row: row.latency_ms)

    def save(self, path: PathLike) -> None:
        """Write JSON, as a whole or not at all."""
        content = {"format": FORMAT, "version": FORMAT_VERSION, **dataclasses.asdict(self)}
        for row, own in zip(content["rows"], self.rows, strict=True):
            row["loss"] = None if own.loss is None else own.loss._asdict()
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        with replacing(path) as file:
            file.write(text.encode())

    @classmethod
    def load(cls, path: PathLike) -> Report:
        """Read what `save` wrote. Raises FormatError that names the file and the field for anything else."""
        try:
            content = json.loads(Path(path).read_bytes())
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise FormatError(f"{path} must be JSON that qindex mteb or qindex tune wrote: {error}") from None
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise FormatError(f"{path} must be a result of qindex mteb or qindex tune, it has no format {FORMAT!r}")
        if (found := content.pop("version", None)) != FORMAT_VERSION:
            raise FormatError(f"{path} must have version {FORMAT_VERSION}, got {found!r}: read it with that qindex")
        rows = content.get("rows")
        if not isinstance(rows, list):
            raise FormatError(f"{path}: rows must be a list, got {type(rows).__name__}")
        content["rows"] = [_made(Row, row, f"{path}: rows[{i}]") for i, row in enumerate(rows)]
        report: Report = _made(cls, content, str(path))
        return report


def environment(*distributions: str) -> dict[str, str]:
    """The date, the machine and the versions that a measurement depends on, for a report to keep."""
    machine = kernels.machine()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
        if hasattr(os, "sched_getaffinity")
        else f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **{name: machine[name] for name in ("processor", "kernels", "threads") if name in machine},
        "python": platform.python_version(),
        **{name: version(name) for name in ("qindex", "numpy", "numba", *distributions)},
    }


def _made(cls: type[Any], fields: Any, where: str) -> Any:
    """An instance of a dataclass from what JSON holds of it."""
    if not isinstance(fields, dict):
        raise FormatError(f"{where} must be an object, got {type(fields).__name__}")
    known = {one.name: one for one in dataclasses.fields(cls)}
    for name in fields.keys() - known.keys():
        raise FormatError(f"{where} has an unknown field {name!r}")
    values = {}
    for name, one in known.items():
        if name in fields:
            values[name] = _READ[one.type](fields[name], f"{where}.{name}")
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise FormatError(f"{where} has no field {name!r}")
    try:
        return cls(**values)
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from None


def _refused(value: Any, where: str, wanted: str) -> NoReturn:
    raise FormatError(f"{where} must be {wanted}, got {type(value).__name__} {str(value)[:40]!r}")


def _text(value: Any, where: str) -> str:
    return value if isinstance(value, str) else _refused(value, where, "a string")


def _number(value: Any, where: str) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300
    return float(value) if fits else _refused(value, where, "a finite number")


def _whole(value: Any, where: str) -> int:
    return int(value) if _number(value, where).is_integer() else _refused(value, where, "a whole number")


def _texts(value: Any, where: str) -> list[str]:
    return [_text(one, where) for one in value] if isinstance(value, list) else _refused(value, where, "a list")


def _named(read: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def of(value: Any, where: str) -> dict[str, Any]:
        fits = isinstance(value, dict)
        return {name: read(one, where) for name, one in value.items()} if fits else _refused(value, where, "an object")

    return of


def _bounds(value: Any, where: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        _refused(value, where, "two numbers")
    return _number(value[0], where), _number(value[1], where)


def _interval(value: Any, where: str) -> Interval:
    if not isinstance(value, dict) or set(value) != set(Interval._fields):
        _refused(value, where, "an object of mean, low and high")
    return Interval(**{name: _number(one, f"{where}.{name}") for name, one in value.items()})


def _or_null(read: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, where: None if value is None else read(value, where)


# How the fields of Row and Report are read, by their types.
_READ: dict[Any, Callable[[Any, str], Any]] = {
    "str": _text,
    "float": _number,
    "float | None": _or_null(_number),
    "int | None": _or_null(_whole),
    "tuple[float, float] | None": _or_null(_bounds),
    "Interval | None": _or_null(_interval),
    "Mapping[str, float]": _named(_number),
    "Mapping[str, str]": _named(_text),
    "Sequence[str]": _texts,
    "Sequence[Row]": lambda value, where: value,  # made before
}
