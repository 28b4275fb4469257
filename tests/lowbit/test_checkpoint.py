"""Saved models: the same bits when they come back, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import DECODERS, ENCODERS, batch, made

import qindex
from qindex import io, lowbit
from qindex.lowbit import checkpoint

LENGTHS = [5, 1, 17, 30]


@pytest.fixture
def network() -> Any:
    return lowbit.quantize(made(*ENCODERS["Bert"]), lowbit.Plan.default(4))


def raw(path: Path, monkeypatch: pytest.MonkeyPatch) -> checkpoint.Checkpoint:
    with monkeypatch.context() as patch:
        patch.delitem(io._openers, "lowbit.Checkpoint")
        found = io.load(path)
    assert isinstance(found, checkpoint.Checkpoint)
    return found


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_a_model_comes_back_with_the_same_bits(name: str, tmp_path: Path) -> None:
    original = made(*{**ENCODERS, **DECODERS}[name])
    quantized = lowbit.quantize(original, lowbit.Plan.default(4))
    lowbit.save(quantized, tmp_path / "model.qindex")
    loaded = lowbit.load(tmp_path / "model.qindex")
    tokens = batch(LENGTHS, pad=original.config.pad_token_id or 0)
    assert torch.equal(loaded(**tokens).last_hidden_state, quantized(**tokens).last_hidden_state)
    assert type(loaded).__name__ == type(original).__name__
    assert isinstance(loaded, type(original))


def test_qindex_load_opens_a_model_too(network: Any, tmp_path: Path) -> None:
    lowbit.save(network, tmp_path / "model.qindex")
    assert isinstance(qindex.load(tmp_path / "model.qindex"), torch.nn.Module)


def test_tied_layers_are_saved_once(tmp_path: Path) -> None:
    settings = DECODERS["Llama"][1]
    plan = lowbit.Plan.of({"*": "int8"})
    for tie, name in ((True, "tied"), (False, "apart")):
        original = made("LlamaForCausalLM", {**settings, "tie_word_embeddings": tie})
        lowbit.save(lowbit.quantize(original, plan), tmp_path / name)
    assert (tmp_path / "apart").stat().st_size - (tmp_path / "tied").stat().st_size > 120 * 64 * 0.9
    loaded = lowbit.load(tmp_path / "tied")
    assert loaded.lm_head.codes.data is loaded.model.embed_tokens.codes.data


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        lowbit.save(lowbit.quantize(made(*ENCODERS["Bert"])), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_in_floats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one that lowbit\.quantize made"):
        lowbit.save(made(*ENCODERS["Bert"]), tmp_path / "model.qindex")


def test_another_file_is_refused(tmp_path: Path) -> None:
    qindex.FlatIndex.build(np.eye(4, dtype=np.float32), qindex.Int8()).save(tmp_path / "index.qindex")
    with pytest.raises(qindex.FormatError, match="holds a FlatIndex, not a model"):
        lowbit.load(tmp_path / "index.qindex")


def test_a_truncated_file_is_refused(network: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.qindex"
    lowbit.save(network, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(qindex.FormatError, match="truncated"):
        lowbit.load(path)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "an architecture that transformers lacks": (
        {"architecture": "NoSuchModel"},
        "'NoSuchModel'.*is not in",
    ),
    "a name that is no model": ({"architecture": "AutoTokenizer"}, "is not in transformers"),
    "another architecture": ({"architecture": "DistilBertModel"}, "another version"),
    "files outside": ({"files": ("../evil",), "contents": (np.zeros(3, np.uint8),)}, "must lie in the folder"),
    "a missing tensor": ({"names": (), "tensors": ()}, "which the file has not"),
    "a missing layer": ({"layers": ()}, "which the file has not"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_of_something_else_is_refused(
    what: str, network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = CHANGES[what]
    lowbit.save(network, tmp_path / "model.qindex")
    saved = raw(tmp_path / "model.qindex", monkeypatch)
    changed = object.__new__(checkpoint.Checkpoint)
    for field in dataclasses.fields(saved):
        object.__setattr__(changed, field.name, change.get(field.name, getattr(saved, field.name)))
    io.save(tmp_path / "changed.qindex", changed)
    with pytest.raises(qindex.FormatError, match=message):
        lowbit.load(tmp_path / "changed.qindex")


def test_codes_of_another_shape_are_refused(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowbit.save(network, tmp_path / "model.qindex")
    saved = raw(tmp_path / "model.qindex", monkeypatch)
    first, *others = saved.layers
    assert first.codes is not None
    smaller = dataclasses.replace(first, codes=first.codes[: len(first.codes) - 1])
    io.save(tmp_path / "changed.qindex", dataclasses.replace(saved, layers=(smaller, *others)))
    with pytest.raises(qindex.FormatError, match="by its config, got codes"):
        lowbit.load(tmp_path / "changed.qindex")
