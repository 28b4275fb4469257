"""A small cross-encoder of one's own: trained on a CPU in minutes, from judged queries or from documents alone.

Each step takes some queries, each with a document that answers it and some near ones that do not, and raises the
softmax of the former among them (as LCE: Gao et al., arXiv 2101.08751). A teacher's scores may take the place of
right and wrong.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from qindex.lowbit import Nearest, Plan, rounded_weights
from qindex.lowbit.plan import TABLES
from qindex.rerank.cross_encoder import CrossEncoderReranker
from qindex.rerank.fusion import Interpolation
from qindex.rerank.judgements import Example, Judgements
from qindex.types import Reranker

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def train_reranker(
    model: str | os.PathLike[str] | SentenceTransformer,
    judgements: Judgements | Sequence[Judgements],
    *,
    plan: Plan | None = None,
    steps: int = 200,
    teacher: Reranker | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> CrossEncoderReranker:
    """A cross-encoder from an encoder, in few bits by `plan`, with a `fuse` that says how much it is worth.

    It is trained for these bits (see `train_cross_encoder`); `reranker_plan(bits)` is a good plan.
    A fifth of the queries, at most 50 of each collection, is kept from training, and `Interpolation.fit` learns from
    them what the scores of the first stage and of the reranker make together. Raises what `train_cross_encoder` raises.
    """
    sets = [judgements] if isinstance(judgements, Judgements) else list(judgements)
    halves = [one.split(seed=seed) for one in sets]
    examples = [example for taught, _ in halves for example in taught.examples(seed=seed)]
    trained = train_cross_encoder(
        model, examples, plan=plan, steps=steps, teacher=teacher, device=device, seed=seed, progress=progress
    )
    if plan is not None:
        trained = CrossEncoderReranker(trained.network, plan=plan.with_solver(Nearest()), tokenizer=trained.tokenizer)
    trained.fuse = fit_fusion(trained, [held_out for _, held_out in halves], progress=progress)
    return trained


def fit_fusion(reranker: Reranker, judgements: Sequence[Judgements], *, progress: bool | None = None) -> Interpolation:
    """`Interpolation.fit` on queries that the reranker has not seen. Without any with a right document: weight 0."""
    judged = []
    queries = [(one, i) for one in judgements for i in range(len(one)) if one.queries[i].strip()]
    for one, i in tqdm(queries, desc="fit fusion", unit="query", disable=None if progress is None else not progress):
        rows, grades = one.found_grades(i)
        if grades.any():
            scores = reranker.score(one.queries[i], [one.documents[row] for row in rows])
            judged.append((one.found.scores[i, : len(rows)], scores, grades))
    return Interpolation.fit(judged) if judged else Interpolation(0.0)


def train_cross_encoder(
    model: str | os.PathLike[str] | SentenceTransformer,
    examples: Sequence[Example],
    *,
    plan: Plan | None = None,
    steps: int = 200,
    batch_size: int = 8,
    negatives: int = 3,
    learning_rate: float = 1.5e-4,
    max_length: int = 160,
    teacher: Reranker | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> CrossEncoderReranker:
    """A cross-encoder from an encoder: its network with a head for one number, trained on examples.

    It is in float32. With a `plan`, it computes with weights as that rounds them in each step, and has them in the end:
    to quantize it by `plan.with_solver(Nearest())` changes no weight (`lowbit.rounded_weights`).

    Each of `steps` takes `batch_size` examples with so many of their negatives, each pair cut at `max_length` tokens.
    With a `teacher`, the softmax of its scores is learnt instead of what the examples say is right. Products are
    computed in bfloat16 where the device has it. Equal arguments give equal weights on one machine with one number of
    threads.

    Raises ValueError for fewer examples than a batch, or without negatives, and where the loss is not finite.
    """
    if min(steps, batch_size, negatives) < 1:
        raise ValueError(f"steps, batch_size and negatives must be at least 1, got {steps}, {batch_size}, {negatives}")
    if len(examples) < batch_size:
        raise ValueError(f"examples must be at least {batch_size}, one batch, got {len(examples)}: judge more queries")
    if not all(example.negatives for example in examples):
        raise ValueError("examples must each have a negative at least: what the first stage finds and is wrong")
    rng = random.Random(seed)
    with torch.random.fork_rng(), torch.enable_grad(), ExitStack() as held:
        torch.manual_seed(seed)
        network, tokenizer = with_head(model)
        network.to(device or "cpu").train()
        if plan is not None:
            held.enter_context(rounded_weights(network, plan))
        optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, steps))
        batches = _batches(examples, batch_size, rng)
        with tqdm(range(steps), desc="train", unit="step", disable=None if progress is None else not progress) as bar:
            for _ in bar:
                loss = _loss(network, tokenizer, next(batches), negatives, max_length, teacher, rng)
                value = loss.item()
                if not np.isfinite(value):
                    raise ValueError(f"the loss must stay finite, got {value}: take a smaller learning_rate")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.set_postfix(loss=f"{value:.3f}", refresh=False)
    return CrossEncoderReranker(network.to("cpu").eval(), tokenizer=tokenizer)


def reranker_plan(bits: Literal[8, 4] = 8) -> Plan:
    """A plan for rerankers. Scores of near documents lie close, so that 8 bits are in blocks of 32 (mxint8)."""
    if bits == 8:
        return Plan.of(dict.fromkeys(TABLES, "int8") | {"*": "mxint8"})
    return Plan.default(bits)


def with_head(model: Any) -> tuple[Any, Any]:
    """The network of an encoder with a head for one number, whose weights are random."""
    if isinstance(model, str | os.PathLike):
        backbone = AutoModel.from_pretrained(model, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(model)
    else:
        backbone, tokenizer = model[0].auto_model, model.tokenizer
    config = copy.deepcopy(backbone.config)
    config.num_labels = 1
    network = AutoModelForSequenceClassification.from_config(config)
    network.base_model.load_state_dict(backbone.state_dict(), strict=False)
    return network.float(), tokenizer


def _share_of_rate(step: int, steps: int) -> float:
    """Rises over the first tenth, then falls to zero."""
    rising = max(1, steps // 10)
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))


def _batches(examples: Sequence[Example], size: int, rng: random.Random) -> Iterator[list[Example]]:
    while True:
        order = rng.sample(range(len(examples)), len(examples))
        for start in range(0, len(order) - size + 1, size):
            yield [examples[i] for i in order[start : start + size]]


def _loss(
    network: Any,
    tokenizer: Any,
    batch: list[Example],
    negatives: int,
    max_length: int,
    teacher: Reranker | None,
    rng: random.Random,
) -> torch.Tensor:
    groups = [[one.positive, *_some(one.negatives, negatives, rng)] for one in batch]
    pairs = tokenizer(
        [one.query for one in batch for _ in range(1 + negatives)],
        [document for group in groups for document in group],
        padding=True, truncation="longest_first", max_length=max_length, return_tensors="pt",
    ).to(network.device)  # fmt: skip
    with _half(network.device.type):
        logits = network(**pairs).logits
    logits = logits.float().view(len(batch), 1 + negatives)
    if teacher is None:
        return functional.cross_entropy(logits, torch.zeros(len(batch), dtype=torch.int64, device=logits.device))
    wanted = np.stack([teacher.score(one.query, group) for one, group in zip(batch, groups, strict=True)])
    return functional.cross_entropy(logits, torch.from_numpy(wanted).to(logits.device).softmax(dim=1))


def _some(texts: tuple[str, ...], n: int, rng: random.Random) -> list[str]:
    """All examples have as many documents: one with few negatives has some of them more than once."""
    return rng.sample(texts, n) if len(texts) >= n else rng.choices(texts, k=n)


def _half(device: str) -> AbstractContextManager[Any]:
    """bfloat16 for products, where it is faster."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = device != "cpu" or known.get("avx512_bf16") or known.get("amx_bf16")
    return torch.autocast(device, dtype=torch.bfloat16, enabled=bool(fast))
