"""SmolLM2 beside torch: section `causal` of lowbit.py."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch

from bars import bar, invariant
from lowbit_models import causal, seconds
from qindex import lowbit
from timing import medians, shown

PROMPTS, PROMPT_TOKENS, BATCH = 64, 200, 8
STEPS, CONTEXT = 32, 64


def measured(quick: bool) -> dict[str, Any]:
    network, _tokenizer = causal()
    systems: dict[str, Any] = {"torch float32": network, "torch bf16": copy.deepcopy(network).to(torch.bfloat16)}
    quantizing = {}
    for name, plan in {"qindex int8": lowbit.Plan.default(8), "qindex int4": lowbit.Plan.of({"*": "int4"})}.items():
        started = time.perf_counter()
        systems[name] = lowbit.quantize(network, plan)
        quantizing[name] = time.perf_counter() - started
    n = 4 if quick else PROMPTS
    prompts = torch.randint(10, 40_000, (n, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))

    def prefill(one: Any, count: int) -> None:
        """What a reranker asks for: the hidden states, and the scores of the last token."""
        for start in range(0, count, BATCH):
            one(input_ids=prompts[start : start + BATCH], use_cache=False, logits_to_keep=1)

    # bfloat16 is so slow here that it gets a batch.
    counts = {name: BATCH if name == "torch bf16" else n for name in systems}
    for one in systems.values():
        prefill(one, 2)
    rounds = 1 if quick else 3
    prefills = {name: lambda name=name: prefill(systems[name], counts[name]) for name in systems}
    spent = seconds(prefills, rounds)
    prefilled = {name: counts[name] * PROMPT_TOKENS / spent[name] for name in systems}
    decoded = seconds({name: _decode(one, prompts[:1, :CONTEXT]) for name, one in systems.items()}, rounds)
    linears = medians({name: _linears(one) for name, one in systems.items()}, 5 * rounds, 0)
    rows = []
    for name, one in systems.items():
        n_bytes = lowbit.report(one).nbytes if name.startswith("qindex") else sum(p.nbytes for p in one.parameters())
        rows.append(
            shown({"name": name, "bytes": n_bytes, "prefill_tokens_per_s": round(prefilled[name]),
                   "prefill_ratio": round(prefilled[name] / prefilled["torch float32"], 3),
                   "decode_tokens_per_s": round(STEPS / decoded[name], 1),
                   "decode_ratio": round(decoded["torch float32"] / decoded[name], 3),
                   "linears_ms": round(1e3 * linears[name], 2),
                   "linears_ratio": round(linears["torch float32"] / linears[name], 3)})
        )  # fmt: skip
    by = {row["name"]: row for row in rows}
    eight, four = by["qindex int8"], by["qindex int4"]

    def logits(sequences: list[list[int]]) -> Any:
        width = max(map(len, sequences))
        tokens = torch.tensor([one + [0] * (width - len(one)) for one in sequences])
        mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in sequences])
        found = systems["qindex int4"](input_ids=tokens, attention_mask=mask).logits
        return torch.stack([found[i, len(one) - 1] for i, one in enumerate(sequences)]).numpy()

    some = [prompts[i, : 5 + 11 * i].tolist() for i in range(min(n, 12))]
    bars = [
        bar("prefill in int8, by torch float32's time", "at least 2.5x", f"{eight['prefill_ratio']:.2f}x",
            eight["prefill_ratio"] >= 2.5),
        bar("linear layers of a 4-bit step, by float32's", "at least 4x", f"{four['linears_ratio']:.2f}x",
            four["linears_ratio"] >= 4),
        bar("4-bit decoding, by torch float32's time", "at least 2x", f"{four['decode_ratio']:.2f}x",
            four["decode_ratio"] >= 2),
        bar("seconds to quantize SmolLM2, Plan.default()", "under 60", f"{quantizing['qindex int8']:.1f}",
            quantizing["qindex int8"] < 60),
        bar("logits of a prompt alone, in any batch and order, 1 or 2 threads", "equal to the bit",
            *invariant(logits, some)),
    ]  # fmt: skip
    settings = {"prompts": n, "prompt_tokens": PROMPT_TOKENS, "batch": BATCH, "steps": STEPS, "context": CONTEXT,
                "quantize_s": {name: round(value, 1) for name, value in quantizing.items()}}  # fmt: skip
    return {"settings": settings, "rows": rows, "bars": [] if quick else bars}


def _decode(network: Any, prompt: torch.Tensor) -> Callable[[], None]:
    """One token after the other behind a prompt, the likeliest each time."""
    quantized = any(isinstance(module, lowbit.QuantLinear) for module in network.modules())

    def run() -> None:
        cache = lowbit.KeyValueCache(network.config) if quantized else None
        out = network(input_ids=prompt, use_cache=True, past_key_values=cache, logits_to_keep=1)
        for _ in range(STEPS):
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            out = network(input_ids=token, use_cache=True, past_key_values=out.past_key_values)

    return run


def _linears(network: Any) -> Callable[[int], None]:
    """All linear layers of a step, one after the other: weights that no cache of a core holds."""
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Linear | lowbit.QuantLinear)]
    dtype = next(network.parameters()).dtype
    inputs = {layer.in_features: torch.randn(1, layer.in_features).to(dtype) for layer in layers}

    def run(_i: int) -> None:
        for layer in layers:
            layer(inputs[layer.in_features])

    return run
