"""Quantized models on disk: one file with codes, all other numbers, the config, the tokenizer and what follows them."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from qindex import io
from qindex.device import Activations
from qindex.io import FormatError, PathLike, register
from qindex.lowbit import packed
from qindex.lowbit.convert import prepare
from qindex.lowbit.linear import QuantEmbedding, QuantLinear
from qindex.lowbit.network import backbone_of, layers_of, network_of, replace
from qindex.types import Codes

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Where the modules behind a network may come from: a file names them, and they are imported.
_PIPELINE = "sentence_transformers."


@register("lowbit.SavedLayer")
@dataclass(frozen=True, eq=False)
class SavedLayer:
    """A layer by its name in the network. Tied layers are saved once."""

    name: str
    codes: Codes | None = None  # None: those of `tied`
    tied: str | None = None  # another layer, before this one
    offset: NDArray[np.float32] | None = None  # of a tied layer: its bias
    activations: Activations | None = None  # None: a table of tokens


def _opened(saved: Checkpoint) -> PreTrainedModel | SentenceTransformer:
    with tempfile.TemporaryDirectory() as folder:
        _write_files(saved, Path(folder))
        network = _network(saved)
        if saved.pipeline:
            return _pipeline(network, Path(folder))
        tokenizer: Any = AutoTokenizer.from_pretrained(folder) if saved.files else None
        network.tokenizer = tokenizer
        return network


@register("lowbit.Checkpoint", opener=_opened)
@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds; `lowbit.load` makes a model of it."""

    transformers: str  # the version that wrote it
    architecture: str  # a class of transformers
    config: str  # JSON
    pipeline: bool  # whether it was a SentenceTransformer
    first_position: int | None
    layers: tuple[SavedLayer, ...]
    names: tuple[str, ...]  # of parameters and buffers
    tensors: tuple[NDArray[Any], ...]
    files: tuple[str, ...]  # of the tokenizer, and of the modules behind the network
    contents: tuple[NDArray[np.uint8], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.tensors) or len(self.files) != len(self.contents):
            raise ValueError("names and tensors, and files and contents, must be as many")
        for file in self.files:
            if Path(file).is_absolute() or ".." in Path(file).parts:
                raise ValueError(f"files must lie in the folder of the model, got {file!r}")


def save(model: PreTrainedModel | SentenceTransformer, path: PathLike, tokenizer: Any = None) -> None:
    """Write a quantized model to one file, entirely or not at all.

    A `SentenceTransformer` brings its tokenizer. For a network, `tokenizer` is saved with it, or that which it already
    has as `model.tokenizer`, from `quantize` or `load`.

    Raises ValueError for a model that `lowbit.quantize` did not make.
    """
    network: Any = network_of(model)
    backbone: Any = backbone_of(network)
    if not isinstance(backbone, packed.Packs):
        raise ValueError("model must be one that lowbit.quantize made, got one in floats: quantize it first")
    names, tensors = _tensors(network)
    with tempfile.TemporaryDirectory() as folder:
        if model is not network:
            _save_pipeline(model, Path(folder))
        elif (tokenizer := tokenizer or getattr(network, "tokenizer", None)) is not None:
            tokenizer.save_pretrained(folder)
        files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
        saved = Checkpoint(
            transformers=transformers.__version__,
            architecture=type(network).__name__,
            config=network.config.to_json_string(use_diff=False),
            pipeline=model is not network,
            first_position=backbone.first_position,
            layers=tuple(_layers(network)),
            names=names,
            tensors=tensors,
            files=tuple(file.relative_to(folder).as_posix() for file in files),
            contents=tuple(np.frombuffer(file.read_bytes(), np.uint8) for file in files),
        )
    io.save(path, saved)


def load(path: PathLike, *, verify: bool = False) -> PreTrainedModel | SentenceTransformer:
    """The model in a file, its weights memory-mapped; a network has its tokenizer as `tokenizer`, or None.

    Raises FormatError for another file, or one that this version of transformers cannot hold.
    """
    found = io.load(path, verify=verify)
    if not isinstance(found, nn.Module):
        raise FormatError(f"{path} holds a {type(found).__name__}, not a model: open it with qindex.load")
    return found  # type: ignore[return-value]


def _layers(network: PreTrainedModel) -> Iterator[SavedLayer]:
    first: dict[int, str] = {}
    for name, module in network.named_modules():
        if isinstance(module, QuantLinear | QuantEmbedding):
            activations: Any = module.activations if isinstance(module, QuantLinear) else None
            tied = first.setdefault(id(module.codes.data), name)
            if tied == name:
                yield SavedLayer(name, module.codes, activations=activations)
            else:
                yield SavedLayer(name, tied=tied, offset=module.codes.offset, activations=activations)


def _tensors(network: nn.Module) -> tuple[tuple[str, ...], tuple[NDArray[Any], ...]]:
    """Parameters and buffers, those too that a state dict would leave out."""
    found = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, tensor in found.items():
        if tensor.dtype not in (torch.float32, torch.int64, torch.int32, torch.uint8):
            found[name] = tensor.to(torch.uint8 if tensor.dtype == torch.bool else torch.float32)
    return tuple(found), tuple(tensor.detach().cpu().contiguous().numpy() for tensor in found.values())


def _network(saved: Checkpoint) -> PreTrainedModel:
    kind = getattr(transformers, saved.architecture, None)
    config_class = getattr(kind, "config_class", None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)) or config_class is None:
        raise FormatError(
            f"architecture {saved.architecture!r}, of transformers {saved.transformers}, is not in transformers "
            f"{transformers.__version__}: install a version that has it"
        )
    with torch.device("meta"):
        network: PreTrainedModel = kind(config_class.from_dict(json.loads(saved.config)))
    known = {layer.name: layer for layer in layers_of(network)}
    codes: dict[str, Codes] = {}
    for layer in saved.layers:
        own = codes.get(layer.tied or "") if layer.codes is None else layer.codes
        if layer.name not in known or own is None:
            raise FormatError(
                f"layer {layer.name!r} is not one of {saved.architecture}: the file is of another version"
            )
        codes[layer.name] = own
        shape = known[layer.name].shape
        if shape != (len(own), own.dim):
            raise FormatError(f"layer {layer.name!r} must be {shape} by its config, got codes {(len(own), own.dim)}")
        if layer.activations is None:
            made: nn.Module = QuantEmbedding(own)
        else:
            bias = own.offset if layer.codes is not None else layer.offset
            made = QuantLinear(dataclasses.replace(own, offset=bias), layer.activations)
        replace(network, layer.name, made)
    for name, array in zip(saved.names, saved.tensors, strict=True):
        _put(network, name, torch.from_numpy(np.array(array)))
    missing = [name for name, tensor in (*network.named_parameters(), *network.named_buffers()) if tensor.is_meta]
    if missing:
        raise FormatError(
            f"{saved.architecture} needs {missing[0]!r}, which the file has not: it is of another version"
        )
    prepare(network).first_position = saved.first_position
    return network


def _put(network: nn.Module, name: str, tensor: torch.Tensor) -> None:
    parent, _, own = name.rpartition(".")
    try:
        module = network.get_submodule(parent)
        old = getattr(module, own)
    except AttributeError:
        raise FormatError(f"the network has no {name!r}: the file is of another version") from None
    if old.shape != tensor.shape:
        raise FormatError(f"{name!r} must be {tuple(old.shape)} by its config, got {tuple(tensor.shape)}")
    if own in module._parameters:
        module._parameters[own] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[own] = tensor.to(old.dtype)


def _write_files(saved: Checkpoint, folder: Path) -> None:
    for name, content in zip(saved.files, saved.contents, strict=True):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.tobytes())


class _ConfigOnly(nn.Module):
    """Stands for a network where a SentenceTransformer saves itself: the network is saved elsewhere."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.config = network.config

    def save_pretrained(self, folder: str, **kwargs: Any) -> None:
        self.config.save_pretrained(folder)


def _save_pipeline(model: Any, folder: Path) -> None:
    first, *others = model.children()
    shell = copy.copy(first)
    shell._modules = dict(first._modules) | {"model": _ConfigOnly(first.auto_model)}
    steps = [step for other in others for step in (other.steps if isinstance(other, packed.OneByOne) else [other])]
    whole = copy.copy(model)
    whole._modules = {str(i): module for i, module in enumerate([shell, *steps])}
    whole.save(str(folder), create_model_card=False)


def _pipeline(network: PreTrainedModel, folder: Path) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Transformer

    class Holder(Transformer):
        """Around the network that is here."""

        def _load_model(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
            return network

    def made(entry: dict[str, Any]) -> nn.Module:
        module, _, name = entry["type"].rpartition(".")
        if not entry["type"].startswith(_PIPELINE):
            raise FormatError(f"modules must be of sentence-transformers, got {entry['type']!r}")
        kind = getattr(importlib.import_module(module), name)
        found: nn.Module = kind.load(str(folder), subfolder=entry["path"])
        return found

    _first, *entries = json.loads((folder / "modules.json").read_text())
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    options: dict[Literal["prompts", "default_prompt_name", "similarity_fn_name"], Any] = {
        name: config[name] for name in ("prompts", "default_prompt_name", "similarity_fn_name") if name in config
    }
    first = Holder.load(str(folder), local_files_only=True)
    first.__class__ = Transformer
    steps = [made(entry) for entry in entries]
    return SentenceTransformer(
        modules=[first, *([packed.OneByOne(steps)] if steps else [])], device="cpu", **options
    ).eval()
