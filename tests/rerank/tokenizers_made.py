"""A small tokenizer of bytes and common words, trained here."""

from typing import Any

import tokenizers
import transformers
from tokenizers import decoders, pre_tokenizers, trainers

from qindex.rerank import TEMPLATES

SPECIAL = ["<pad>", "<bos>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ["yes", "no", "Yes", "No", "the fox", "a river in spring", "quick brown dogs", "where do foxes live"]


def tokenizer(*, chat: bool = True, bos: bool = False) -> Any:
    """With `bos`, one that begins texts with a token of its own."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*(template.text for template in TEMPLATES.values()), *WORDS]
    model.train_from_iterator([text for text in texts for _ in range(3)], trainer)
    if bos:
        model.post_processor = tokenizers.processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
        )
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", bos_token="<bos>")
    made.chat_template = CHAT if chat else None
    return made
