"""What is trained: quantizers as torch modules, whose rounding gradients pass (straight-through)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from qindex.quantize.gaussian import uniform_step
from qindex.quantize.recurrent import BEYOND, STRETCHES, RecurrentBinary, RecurrentModel
from qindex.quantize.spectral import FINE, TRIED, Spectral
from qindex.transform import Rotation
from qindex.transform.pca import principal_axes
from qindex.types import Codes, Vectors

# Rows from which maps and factors are fitted that training then changes.
_FITTED = 20_000

# Of RecurrentBinary. Groups of numbers: twice as many find no more. Errors weigh as this power of the variance along
# them (of 0, 0.25, 0.5, 0.75 and 1 it found most of minilm-100k by queries of both kinds), and a little everywhere.
_GROUPS, _WEIGHT, _FLOOR = 16, 0.5, 1e-3


class Student(nn.Module):
    """A quantizer that learns: numbers of a code are what a float query, mapped by `queries`, is multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(()))

    @property
    def gain(self) -> torch.Tensor:
        """The inner product of two vectors by that of their numbers."""
        return self.log_gain.exp()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(n, dim_in) -> the numbers of their codes (n, dim), with gradients."""
        raise NotImplementedError

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        """(m, dim_in) -> (m, dim)."""
        raise NotImplementedError

    def numbers(self, codes: Codes) -> Vectors:
        """The numbers of codes that this model or another made: (n, dim)."""
        raise NotImplementedError

    def quantizer(self) -> Any:
        """The quantizer as it is now."""
        raise NotImplementedError

    @torch.no_grad()
    def fit_gain(self, x: torch.Tensor) -> None:
        """The gain with the least squared error of inner products, of the codes as they are now."""
        numbers = self.encode(x)
        products = (numbers @ numbers.T).flatten()
        self.log_gain.fill_(math.log(float((x @ x.T).flatten() @ products / (products @ products))))


class RecurrentStudent(Student):
    """`RecurrentBinary`, started from the principal axes, turned at random so that all numbers vary alike.

    Errors are fed forward as is best for queries that are like the vectors. Beside codes of an old model, it starts
    from the linear maps that come nearest to them, and from them to the vectors.
    """

    def __init__(self, quantizer: RecurrentBinary, vectors: Vectors, old: Codes | None) -> None:
        super().__init__()
        self.start = quantizer
        dim_in = vectors.shape[1]
        dim = dim_in if quantizer.dim is None else quantizer.dim
        kept = min(dim, dim_in)
        mean, axes, variances = principal_axes(vectors)
        if not variances[0] > 0:
            raise ValueError("vectors must not all be the same, got no row that differs from their mean")
        # Vectors are brought to numbers of variance 1: then one learning rate suits all parameters.
        self.unit = float(np.sqrt(np.mean(variances[:kept])))
        self.group = -(-dim // _GROUPS)
        step = uniform_step(quantizer.bits) if quantizer.bits > 1 else math.sqrt(2 / math.pi)
        rows = (vectors[:_FITTED] - mean) / np.float32(self.unit)
        if old is None:
            turned = Rotation(quantizer.seed, (dim,)).apply(np.eye(dim, kept, dtype=np.float32).T.copy()).T
            decoder = turned @ axes[:kept]
            encoder = decoder * np.sqrt(dim / kept) / step
            feedback = _feedback((turned * (variances[:kept] / variances[0]) ** _WEIGHT) @ turned.T, self.group)
        else:
            levels = old.levels[:_FITTED]
            decoder = np.linalg.lstsq(levels, rows, rcond=None)[0]
            decoder *= np.sqrt(np.square(levels @ decoder).sum() / np.square(rows @ decoder.T).sum())
            encoder = np.linalg.lstsq(rows, levels, rcond=None)[0].T
            feedback = np.zeros((dim, dim))
        self.mean = nn.Buffer(torch.from_numpy(mean))
        self.decoder = _parameter(decoder)
        self.encoder = _parameter(encoder)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.feedback = _parameter(feedback)
        self.inner = self.outer = None
        if quantizer.hidden:
            random = np.random.default_rng(quantizer.seed).standard_normal((quantizer.hidden, dim_in + 1))
            self.inner = _parameter(random / math.sqrt(dim_in))
            self.outer = nn.Parameter(torch.zeros(dim, quantizer.hidden))
        self.share = nn.Buffer(torch.ones(()))
        with torch.no_grad():
            fitted = torch.from_numpy(rows)
            along = fitted @ self.decoder.T
            levels_now = self._binarized(self._read(fitted), torch.ones(len(rows)))
            self.share.fill_((along * levels_now).sum() / _length(fitted, along).sum())
            self.fit_gain(torch.from_numpy(vectors[:2000]))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        rows = (x - self.mean) / self.unit
        read = self._read(rows)
        with torch.no_grad():
            along = rows @ self.decoder.T
            stretch = self._stretch(along, _length(rows, along) * self.share, read)
        return self._binarized(read, stretch)

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.decoder.T * (self.unit / self.share)

    def numbers(self, codes: Codes) -> Vectors:
        return codes.levels

    def quantizer(self) -> RecurrentBinary:
        inner = None
        if self.inner is not None:
            inner = _array(torch.cat([self.inner[:, :-1] / self.unit, self.inner[:, -1:]], dim=1))
        below = np.arange(len(self.bias)) // self.group
        model = RecurrentModel(
            mean=_array(self.mean),
            encoder=_array(self.encoder / self.unit),
            bias=_array(self.bias),
            feedback=_array(self.feedback) * (below[None] < below[:, None]).astype(np.float32),
            group=self.group,
            decoder=_array(self.decoder),
            share=float(self.share) / self.unit,
            gain=float(self.gain.detach()),
            inner=inner,
            outer=None if self.outer is None else _array(self.outer),
        )
        return dataclasses.replace(self.start, model=model)

    def _read(self, rows: torch.Tensor) -> torch.Tensor:
        read: torch.Tensor = rows @ self.encoder.T + self.bias
        if self.inner is not None and self.outer is not None:
            ones = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
            read = read + (ones @ self.inner.T).relu() @ self.outer.T
        return read

    def _binarized(self, read: torch.Tensor, stretch: torch.Tensor) -> torch.Tensor:
        errors: list[torch.Tensor] = []
        levels: list[torch.Tensor] = []
        for own in torch.split(read * stretch[:, None], self.group, dim=1):
            if errors:
                start = len(errors) * self.group
                rows = self.feedback[start : start + own.shape[1], :start]
                own = own + torch.cat(errors, dim=1) @ rows.T
            levels.append(_rounded(own, self.start.bits))
            errors.append(own - levels[-1])
        return torch.cat(levels, dim=1)

    def _stretch(self, along: torch.Tensor, wanted: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """As `RecurrentModel.levels` finds it."""
        stretch = torch.ones(len(along), device=along.device)
        best, missed = stretch, torch.full_like(stretch, torch.inf)
        for _ in range(STRETCHES + 1):
            reached = (along * self._binarized(read, stretch)).sum(dim=1)
            nearer = (wanted - reached).abs() < missed
            best = torch.where(nearer, stretch, best)
            missed = torch.minimum(missed, (wanted - reached).abs())
            stretch = stretch * torch.where(reached > 0, wanted / reached, 1).clamp(0.5, 2)
        return best


def _length(rows: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """Of what codes are to point along: (n,)."""
    spanned = along.square().sum(dim=1)
    return spanned + BEYOND * (rows.square().sum(dim=1) - spanned).clamp_min(0)


def _feedback(weights: NDArray[np.float64], group: int) -> NDArray[np.float64]:
    """What each group of numbers takes of earlier errors, so that errors e leave the least e^T weights e.

    Once the errors of a group are there, those of all later numbers are best at -C_rr^-1 C_rg e (as in GPTQ, arXiv
    2210.17323, where the weights are the Hessian).
    """
    n = len(weights)
    weights = weights / (np.trace(weights) / n) + _FLOOR * np.eye(n)
    found = np.zeros((n, n))
    for start in range(0, n - group, group):
        done, later = slice(start, start + group), slice(start + group, n)
        found[later, done] = np.linalg.solve(weights[later, later], weights[later, done])
    return found


class SpectralStudent(Student):
    """The axes of `Spectral`, and the map of queries beside them; widths, steps and factors stay what they are."""

    def __init__(self, quantizer: Spectral, vectors: Vectors) -> None:
        super().__init__()
        self.start = quantizer.fit(vectors)
        spectrum = self.start.learnt
        if spectrum.feedback is not None:
            raise ValueError(f"bytes must leave axes with less than 8 bits to learn anything, got {quantizer.bytes}")
        self.unit = 2.0**-spectrum.origin.exponent
        self.mean = nn.Buffer(torch.from_numpy(spectrum.origin.mean))
        self.axes = nn.Parameter(torch.from_numpy(spectrum.axes.copy()))
        self.decoder = nn.Parameter(torch.from_numpy(spectrum.axes.copy()))
        halves = 2.0 ** (torch.from_numpy(spectrum.bits.astype(np.float32)) - 1)
        self.largest = nn.Buffer(halves - 0.5)
        self.is_integer = nn.Buffer(torch.from_numpy(spectrum.bits > 4))
        self.steps = nn.Buffer(torch.from_numpy(spectrum.steps))
        self.units = nn.Buffer(torch.from_numpy(spectrum.units * np.where(spectrum.bits == 1, 2, 1).astype(np.float32)))
        self.fit_gain(torch.from_numpy(vectors[:2000]))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        rows = (x - self.mean) / self.unit
        size = rows.norm(dim=1, keepdim=True) / math.sqrt(rows.shape[1])
        along = rows @ self.axes.T / size.clamp_min(1e-12)
        in_steps = along / self.steps
        with torch.no_grad():
            sizes = self._sizes(along, in_steps)
        in_steps = in_steps / sizes
        with torch.no_grad():
            levels = self._rounded(in_steps)
            inside = in_steps.abs() <= self.largest + 0.5  # beyond the last level nothing changes with the number
        decoded = (levels + (in_steps - in_steps.detach()) * inside) * self.units
        numbers: torch.Tensor = decoded * (size * math.sqrt(rows.shape[1]) / decoded.norm(dim=1, keepdim=True))
        return numbers

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.decoder.T * self.unit

    def _rounded(self, in_steps: torch.Tensor) -> torch.Tensor:
        half = torch.where(self.is_integer, in_steps.round(), in_steps.floor() + 0.5)
        shift = torch.where(self.is_integer, 0.5, 0.0)
        return torch.minimum(torch.maximum(half, -self.largest - shift), self.largest - shift)

    def _sizes(self, along: torch.Tensor, in_steps: torch.Tensor) -> torch.Tensor:
        """Of the steps of each row, where levels are fine: as `Spectral` chooses them."""
        best = in_steps.new_ones(len(in_steps), 1)
        if self.start.learnt.bits[0] < FINE:
            return best
        nearest = torch.full_like(best, -torch.inf)
        for size in TRIED.tolist():
            decoded = self._rounded(in_steps / size) * self.units
            cosine = functional.cosine_similarity(along, decoded, dim=1)[:, None]
            best = torch.where(cosine > nearest, size, best)
            nearest = torch.maximum(nearest, cosine)
        return best

    def numbers(self, codes: Codes) -> Vectors:
        units = self.start.learnt.units
        return (codes.levels * codes.scales[0].values * units).astype(np.float32)

    def quantizer(self) -> Spectral:
        learnt = self.start.learnt
        spectrum = dataclasses.replace(learnt, axes=_array(self.axes), decoder=_array(self.decoder))
        return dataclasses.replace(self.start, spectrum=spectrum)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor, bits: int) -> torch.Tensor:
        if bits == 1:
            context.save_for_backward(x.abs() <= 1)
            return torch.where(x >= 0, 1.0, -1.0)
        largest = 2.0 ** (bits - 1) - 0.5
        context.save_for_backward(x.abs() <= largest + 0.5)
        return (x.floor() + 0.5).clamp(-largest, largest)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (inside,) = context.saved_tensors
        return gradient * inside, None


def _rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
    """The level of each number; its gradient is that of the number within the grid, and zero beyond."""
    levels: torch.Tensor = _Rounded.apply(x, bits)  # type: ignore[no-untyped-call]
    return levels


def _parameter(array: NDArray[Any]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.ascontiguousarray(array, np.float32)))


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32)


def student_of(quantizer: RecurrentBinary | Spectral, vectors: Vectors, old: Codes | None = None) -> Student:
    if isinstance(quantizer, RecurrentBinary):
        return RecurrentStudent(quantizer, vectors, old)
    if old is not None:
        raise ValueError(f"old must be left out for {quantizer!r}: codes of RecurrentBinary alone can be compatible")
    return SpectralStudent(quantizer, vectors)
