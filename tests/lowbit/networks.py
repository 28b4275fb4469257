"""Small networks of many architectures, with random weights, and batches of token numbers."""

from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 120,
    "max_position_embeddings": 80, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 16}

# name: (class, config): encoders, then causal networks.
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Bert": ("BertModel", SIZES),
    "Roberta": ("RobertaModel", {**SIZES, "pad_token_id": 1}),
    "DistilBert": (
        "DistilBertModel",
        {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "vocab_size": 120, "max_position_embeddings": 80},
    ),
    "MPNet": ("MPNetModel", {**SIZES, "pad_token_id": 1}),
    "ModernBert": (
        "ModernBertModel",
        {**SIZES, "local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3,
         "bos_token_id": 2, "eos_token_id": 3},
    ),
}  # fmt: skip
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaModel", GROUPED),
    "Mistral": ("MistralModel", {**GROUPED, "sliding_window": 6}),
    "Qwen3": ("Qwen3Model", GROUPED),
    "Gemma": ("GemmaModel", GROUPED),
    "GPT2": ("GPT2Model", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 120, "n_positions": 80}),
}


def made(kind: str, settings: dict[str, Any]) -> transformers.PreTrainedModel:
    """A network whose weights are large enough that attention is not flat."""
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    network = cls(cls.config_class(**settings)).eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def batch(lengths: list[int], side: str = "right", vocabulary: int = 120, pad: int = 0) -> dict[str, torch.Tensor]:
    """Padded token numbers and their mask."""
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    tokens = torch.full((len(lengths), width), pad)
    mask = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(width - length, width)
        tokens[row, place] = torch.randint(5, vocabulary, (length,), generator=generator)
        mask[row, place] = 1
    return {"input_ids": tokens, "attention_mask": mask}
