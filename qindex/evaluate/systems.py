"""Systems to be measured: a quantizer, an index and its settings, with a name that reads as the code that builds it."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike

import qindex.quantize
import qindex.transform
from qindex.index.estimate import KINDS, Kind
from qindex.index.flat import FlatIndex
from qindex.index.graph import GraphIndex
from qindex.index.ivf import IVFIndex
from qindex.index.metric import Metric
from qindex.quantize import Chain
from qindex.types import Index, Matches, Quantizer, Vectors

INDEXES: dict[Kind, Any] = {"flat": FlatIndex, "ivf": IVFIndex, "graph": GraphIndex}

_STEPS: dict[str, Any] = {
    name.casefold(): getattr(module, name)
    for module in (qindex.transform, qindex.quantize)
    for name in module.__all__
    if name not in ("QueryRule", "Transform", "Chain")
}
# What a system decides itself, or what changes nothing that is measured.
_NOT_SETTINGS = {
    "self", "cls", "vectors", "queries", "k", "quantizer", "rescore", "ids", "metric", "allow", "explain",
    "memory_budget", "progress",
}  # fmt: skip

_TIMED, _WARM = 200, 5  # queries whose times are taken, and those before


@dataclass(frozen=True, eq=False)
class System:
    """How vectors are stored and searched. Quantizers are not fitted yet: `build` fits them.

    `built` and `searched` are keyword arguments of the index's `build` and `search`.
    """

    quantizer: Quantizer
    rescore: Quantizer | None = None
    index: Kind = "flat"
    built: Mapping[str, Any] = field(default_factory=dict)
    searched: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("quantizer", self.quantizer), ("rescore", self.rescore)):
            if (value is not None or name == "quantizer") and not isinstance(value, Quantizer):
                raise TypeError(f"{name} must be a quantizer such as qindex.Int8(), got {value!r}")
        if self.index not in KINDS:
            _unknown("index", self.index, KINDS)
        for settings, method in ((self.built, "build"), (self.searched, "search")):
            known = _settings(self.index, method)
            for name in settings:
                if name not in known:
                    _unknown(f"a setting of {self.index}'s {method}", name, known)

    @classmethod
    def parse(cls, chain: str, index: str = "flat") -> System:
        """The system of two texts, as the command line has them.

        `chain` is `int8`, `rabitq(4)`, `spectral(98)`, `float8("e3m4")`, or transforms before a quantizer,
        `pca(192), int8`; `+` adds a quantizer to rescore with: `binary + int8`. What comes after a dash is the first
        argument, `float8-e3m4`, and so is a number, `rabitq4`. `index` is `flat`, `ivf` or `graph`, with settings of
        its build and search: `ivf(nlist=1024, nprobe=16)`.

        Raises ValueError for what is none of these; it names what is near.
        """
        quantizer, rescore = _parsed_chain(chain)
        kind, settings = _parsed_index(index)
        built = {name: value for name, value in settings.items() if name in _settings(kind, "build")}
        searched = {name: value for name, value in settings.items() if name not in built}
        return cls(quantizer, rescore, kind, built, searched)

    @property
    def chain(self) -> str:
        """The quantizers, as `parse` reads them: `RaBitQ(1) + Int8()`."""
        return written(self.quantizer) + (f" + {written(self.rescore)}" if self.rescore else "")

    @property
    def name(self) -> str:
        """The chain, and the index unless it is flat without settings: `Int8(), ivf(nprobe=16)`."""
        settings = ", ".join(f"{name}={value!r}" for name, value in {**self.built, **self.searched}.items())
        index = self.index + (f"({settings})" if settings else "")
        return self.chain if index == "flat" else f"{self.chain}, {index}"

    def lines(self, metric: Metric = "ip", k: int = 10) -> tuple[str, str]:
        """The lines of Python that build it of `vectors` and search it for `queries`."""
        built = ["vectors", written(self.quantizer, "qindex.")]
        if self.rescore:
            built.append(f"rescore={written(self.rescore, 'qindex.')}")
        if metric != "ip":
            built.append(f'metric="{metric}"')
        built += [f"{name}={value!r}" for name, value in self.built.items()]
        searched = ["queries", f"k={k}", *(f"{name}={value!r}" for name, value in self._searched(k).items())]
        return (
            f"index = qindex.{INDEXES[self.index].__name__}.build({', '.join(built)})",
            f"ids, scores = index.search({', '.join(searched)})",
        )

    def build(self, vectors: ArrayLike, metric: Metric = "ip") -> Index:
        """An index of (n, dim) floats under the ids 0 to n - 1."""
        built: Index = INDEXES[self.index].build(
            vectors, self.quantizer, rescore=self.rescore, metric=metric, progress=False, **self.built
        )
        return built

    def search(self, index: Index, queries: Vectors, k: int) -> Matches:
        """The k best of an index that this system built; a setting that k outgrows is raised to k."""
        return index.search(queries, k, **self._searched(k))

    def latency_ms(self, index: Index, queries: Vectors, k: int) -> float:
        """Milliseconds of one query at a time on as many threads as are set: the median of up to 200 of (m, dim)."""
        seconds = []
        for i in range(-_WARM, min(_TIMED, len(queries))):
            query = queries[max(i, 0)][None]
            start = time.perf_counter()
            self.search(index, query, k)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[_WARM:])) * 1e3

    def bytes_per_vector(self, dim: int) -> int:
        """Codes and scales of a vector, with those to rescore by; ids, lists and links are not counted."""
        return self.quantizer.bytes_per_vector(dim) + (self.rescore.bytes_per_vector(dim) if self.rescore else 0)

    def _searched(self, k: int) -> dict[str, Any]:
        return {name: max(value, k) if name == "ef" else value for name, value in self.searched.items()}


def written(step: Any, prefix: str = "") -> str:
    """The expression that makes a quantizer or a transform: its bits, and what differs from its defaults."""
    if isinstance(step, Chain):
        return f"{prefix}Chain({', '.join(written(part, prefix) for part in (*step.transforms, step.quantizer))})"
    arguments: list[str] = []
    named = False
    for place, (name, parameter) in enumerate(inspect.signature(type(step)).parameters.items()):
        value = getattr(step, name, parameter.default)
        tells = place == 0 and (name == "format" or type(value) is int)  # bits, bytes or numbers: what it is chosen by
        if not isinstance(value, str | int | float | None) or (value == parameter.default and not tells):
            named = True  # what comes after one that is left out
            continue
        arguments.append(f"{name}={value!r}" if named or isinstance(value, bool) else repr(value))
    return f"{prefix}{type(step).__name__}({', '.join(arguments)})".replace("'", '"')


def _settings(kind: Kind, method: str) -> list[str]:
    return [n for n in inspect.signature(getattr(INDEXES[kind], method)).parameters if n not in _NOT_SETTINGS]


def _parsed_chain(text: str) -> tuple[Quantizer, Quantizer | None]:
    tree = _tree("chain", text)
    steps = list(tree.elts) if isinstance(tree, ast.Tuple) else [tree]
    rescore = None
    if isinstance(steps[-1], ast.BinOp) and isinstance(steps[-1].op, ast.Add):
        steps[-1], second = steps[-1].left, steps[-1].right
        rescore = _step(text, second)
    made = [_step(text, step) for step in steps]
    if not isinstance(made[-1], Quantizer) or not isinstance(rescore, Quantizer | None):
        raise ValueError(f"chain must end in a quantizer such as int8, got {text!r}")
    return (made[0] if len(made) == 1 else Chain(*made)), rescore


def _parsed_index(text: str) -> tuple[Kind, dict[str, Any]]:
    tree = _tree("index", text)
    name, positional, settings = _call("index", text, tree)
    kinds = {alias: kind for kind, of in INDEXES.items() for alias in (kind, of.__name__.casefold())}
    if name not in kinds:
        _unknown("index", name, KINDS)
    kind = kinds[name]
    known = _settings(kind, "build") + _settings(kind, "search")
    if positional:
        raise ValueError(f"index must name its settings, such as {kind}({known[0]}=...), got {text!r}")
    for setting in settings:
        if setting not in known:
            _unknown(f"a setting of {kind}", setting, known)
    return kind, settings


def _tree(what: str, text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        example = "int8, rabitq(4) or 'pca(192), int8'" if what == "chain" else "flat, or ivf(nprobe=16)"
        raise ValueError(f"{what} must be written like {example}, got {text!r}") from None


def _step(text: str, node: ast.expr) -> Any:
    name, positional, keywords = _call("chain", text, node)
    if name == "chain":
        return Chain(*(_step(text, part) for part in positional))
    first = []
    if name not in _STEPS and (split := re.fullmatch(r"([a-z]+)(\d+)", name)) and split[1] in _STEPS:
        name, first = split[1], [int(split[2])]
    if name not in _STEPS:
        _unknown("quantizer or transform", name, _STEPS)
    try:
        return _STEPS[name](*first, *positional, **keywords)
    except TypeError as error:
        raise ValueError(f"{_STEPS[name].__name__} takes other arguments than in {text!r}: {error}") from None


def _call(what: str, text: str, node: ast.expr) -> tuple[str, list[Any], dict[str, Any]]:
    """Name, positional and keyword arguments of `name`, `name(...)` or `name-word`; those of a chain stay trees."""
    if isinstance(node, ast.Name):
        return node.id.casefold(), [], {}
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Sub)
        and isinstance(node.left, ast.Name)
        and isinstance(node.right, ast.Name)
    ):
        return node.left.id.casefold(), [node.right.id], {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id.casefold()
        try:
            positional = node.args if name == "chain" else [ast.literal_eval(value) for value in node.args]
            return name, list(positional), {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
        except ValueError:
            pass
    raise ValueError(f"{what} must be names with numbers and words as arguments, got {ast.unparse(node)!r} in {text!r}")


def _unknown(what: str, name: str, known: Sequence[str] | Iterable[str]) -> NoReturn:
    names = [_STEPS[one].__name__ if what.startswith("quantizer") else one for one in known]
    near = difflib.get_close_matches(name, [one.casefold() for one in names], n=3, cutoff=0.5)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"{what} must be one of {', '.join(names) or 'none'}, got {name!r}{meant}")
