"""The attention function that transformers calls: sequences, masks, windows, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import nn

from qindex.lowbit import attention


class Module(nn.Module):
    is_causal = True


def states(b: int, heads: int, t: int, d: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(b, heads, t, d, generator=torch.Generator().manual_seed(seed))


def attended(mask: Any = None, t: int = 9, s: int = 9, b: int = 2, **options: Any) -> torch.Tensor:
    query, key, value = states(b, 4, t), states(b, 2, s, seed=1), states(b, 2, s, seed=2)
    return attention.attend(Module(), query, key, value, mask, **options)[0]


def wanted(causal: bool = True, window: int = 0) -> torch.Tensor:
    query, key, value = states(2, 4, 9), states(2, 2, 9, seed=1), states(2, 2, 9, seed=2)
    ahead = torch.arange(9) - torch.arange(9)[:, None]
    seen = (ahead <= 0) if causal else torch.ones(9, 9, dtype=torch.bool)
    if window:
        seen = seen & (ahead.abs() < window)
    key, value = (x.repeat_interleave(2, 1) for x in (key, value))
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [0, 1, 3])
def test_causal_and_windowed_attention_are_those_of_torch(causal: bool, window: int) -> None:
    found = attended(is_causal=causal, sliding_window=window or None)
    assert torch.allclose(found, wanted(causal, window), atol=1e-5)


def test_padded_tokens_neither_see_nor_are_seen() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1, 1]])
    found = attended(mask, is_causal=False)
    query, key, value = states(2, 4, 9), states(2, 2, 9, seed=1), states(2, 2, 9, seed=2)
    for row, place in ((0, slice(0, 6)), (1, slice(4, 9))):
        own = [x[row : row + 1, :, place] for x in (query, key, value)]
        alone = attention.attend(Module(), *own, None, is_causal=False)[0]
        assert torch.equal(found[row, place], alone[0])
    assert torch.all(found[0, 6:] == 0)
    assert torch.all(found[1, :4] == 0)


def test_packed_sequences_are_those_of_a_batch() -> None:
    starts = torch.tensor([0, 9, 18])
    query, key, value = states(2, 4, 9), states(2, 2, 9, seed=1), states(2, 2, 9, seed=2)
    packed = [torch.cat(list(x), 1)[None] for x in (query, key, value)]
    found = attention.attend(Module(), *packed, None, cu_seq_lens_q=starts)[0]
    assert torch.equal(found.view(2, 9, 4, 16), attended())


@pytest.mark.parametrize(("left", "right"), [(-1, -1), (-1, 0), (2, 0), (2, 2)])
def test_other_devices_compute_the_same_sequence_by_sequence(left: int, right: int) -> None:
    query, key, value = states(1, 4, 14)[0], states(1, 2, 20, seed=1)[0], states(1, 2, 20, seed=2)[0]
    rows = [x.transpose(0, 1).contiguous() for x in (query, key, value)]
    segments = torch.tensor([[0, 5, 3, 9], [6, 8, 12, 8]])
    there = attention._attend_there(*rows, segments, 0.25, left, right)
    here = attention.layers.attend(
        *(x.numpy() for x in rows), segments.numpy(), scaling=0.25, left=left, right=right
    )  # fmt: skip
    assert torch.allclose(there, torch.from_numpy(here), atol=1e-5)


def test_a_mask_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="got one with gaps"):
        attended(torch.tensor([[1, 0, 1, 1, 1, 1, 1, 1, 1]] * 2))


def test_a_mask_of_another_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention_mask must be \(2, 9\), got \(3, 9\)"):
        attended(torch.ones(3, 9))


@pytest.mark.parametrize("name", ["softcap", "position_bias", "s_aux"])
def test_attention_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"attention must be plain \\(no {name}\\), asked for by Module"):
        attended(**{name: torch.ones(1)})


def test_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no dropout.*call model.eval\(\)"):
        attended(dropout=0.1)


def test_masks_in_chunks_are_refused() -> None:
    from transformers.masking_utils import chunked_causal_mask_function, sliding_window_causal_mask_function

    sizes = {"batch_size": 1, "q_length": 12, "kv_length": 12, "local_size": 4}
    assert attention._mask(**sizes, mask_function=sliding_window_causal_mask_function(4)) is None
    with pytest.raises(ValueError, match="causal, bidirectional or in a window"):
        attention._mask(**sizes, mask_function=chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.int64)))
