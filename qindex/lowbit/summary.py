"""What a quantized model takes, and how far its layers are off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from qindex.lowbit.linear import QuantEmbedding, QuantLinear, describe
from qindex.lowbit.network import Layer, layers_of, network_of
from qindex.lowbit.solvers import error
from qindex.lowbit.statistics import Statistics
from qindex.quantize.blocks import bits_per_number

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class LayerReport:
    """One layer. Tied layers share their bytes, which count with the first of them."""

    name: str
    format: str  # of the numbers, with their block
    weights: int
    nbytes: int  # of codes and of all that rides with them, the bias too
    bits: float  # a weight, everything counted but the bias
    error: float | None  # relative output error against the model in floats, if that was given


@dataclass(frozen=True)
class Report:
    """All layers, and what the model holds besides in floats (norms, positions)."""

    layers: tuple[LayerReport, ...]
    float_bytes: int

    @property
    def nbytes(self) -> int:
        """Of the whole model."""
        return self.float_bytes + sum(layer.nbytes for layer in self.layers)

    @property
    def bits(self) -> float:
        """Bits a weight over all layers, everything counted."""
        weights = sum(layer.weights for layer in self.layers)
        return 8 * sum(layer.nbytes for layer in self.layers) / weights

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{'layer':{width}}  {'format':24} {'weights':>11} {'bytes':>11} {'bits':>6}  error"]
        for layer in self.layers:
            error = "" if layer.error is None else f"{layer.error:.2e}"
            numbers = f"{layer.weights:11,} {layer.nbytes:11,} {layer.bits:6.3f}"
            lines.append(f"{layer.name:{width}}  {layer.format:24} {numbers}  {error}")
        lines.append(f"{self.nbytes:,} bytes, {self.bits:.3f} bits a weight; {self.float_bytes:,} of them in floats")
        return "\n".join(lines)


def report(
    model: PreTrainedModel | SentenceTransformer,
    original: PreTrainedModel | SentenceTransformer | None = None,
    statistics: Statistics | None = None,
) -> Report:
    """Bytes, true bits a weight, and, beside the `original` in floats, the output error of each layer.

    The error is `tr(D H D^T) / tr(W H W^T)`, where D is the difference of the weights and H comes from `statistics` of
    `lowbit.collect`; without them, it is that of the weights themselves.
    """
    network = network_of(model)
    originals = {} if original is None else {layer.name: layer for layer in layers_of(network_of(original))}
    layers = tuple(_layers(network, originals, statistics))
    if not layers:
        raise ValueError("model must be one that lowbit.quantize made, got one without layers in codes")
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return Report(layers, sum(tensor.nbytes for tensor in tensors.values()))


def _layers(
    network: PreTrainedModel, originals: dict[str, Layer], statistics: Statistics | None
) -> Iterator[LayerReport]:
    seen: set[int] = set()
    for name, module in network.named_modules():
        if not isinstance(module, QuantLinear | QuantEmbedding):
            continue
        codes = module.codes
        offset = 0 if codes.offset is None else codes.offset.nbytes
        tied = id(codes.data) in seen
        seen.add(id(codes.data))
        known = None if statistics is None else statistics.get(name)
        yield LayerReport(
            name,
            describe(codes),
            0 if tied else len(codes) * codes.dim,
            offset if tied else codes.nbytes,
            bits_per_number(codes) - 8 * offset / (len(codes) * codes.dim),
            error(originals[name].weight, codes, known) if name in originals else None,
        )
