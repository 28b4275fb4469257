"""Cross-encoders in floats and in few bits, on a small random BERT with a tokenizer of whole words."""

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import qindex
from qindex import lowbit
from qindex.rerank import CrossEncoderReranker, Interpolation
from qindex.types import Hit, Reranker

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60))]
LENGTH = 48
EIGHT = lowbit.Plan.default(8)


def tokenizer():
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=LENGTH,
    )  # fmt: skip


def network(labels=1):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, vocab_size=len(WORDS),
        max_position_embeddings=LENGTH, num_labels=labels,
    )  # fmt: skip
    made = transformers.BertForSequenceClassification(config).eval()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return made


def text(n, seed):
    return " ".join(f"w{i}" for i in np.random.default_rng(seed).integers(0, 60, n))


QUERY = text(5, 100)
DOCUMENTS = [text(n, n) for n in (7, 30, 3, 12, 12, 25, 1, 40)]


@pytest.fixture(scope="module")
def eight():
    return CrossEncoderReranker(network(), plan=EIGHT, tokenizer=tokenizer())


def test_scores_are_the_logits_of_the_network():
    reranker = CrossEncoderReranker(network(), tokenizer=tokenizer())
    assert isinstance(reranker, Reranker)
    with torch.no_grad():
        wanted = [float(network()(**tokenizer()(QUERY, d, return_tensors="pt")).logits) for d in DOCUMENTS]
    scores = reranker.score(QUERY, DOCUMENTS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)


def test_two_labels_score_by_their_difference():
    reranker = CrossEncoderReranker(network(2), tokenizer=tokenizer())
    with torch.no_grad():
        [[no, yes]] = network(2)(**tokenizer()(QUERY, DOCUMENTS[0], return_tensors="pt")).logits.tolist()
    assert reranker.score(QUERY, DOCUMENTS[:1])[0] == pytest.approx(yes - no, abs=1e-5)


def test_few_bits_keep_most_of_the_order(eight):
    floats = CrossEncoderReranker(network(), tokenizer=tokenizer())
    assert np.corrcoef(eight.score(QUERY, DOCUMENTS), floats.score(QUERY, DOCUMENTS))[0, 1] > 0.99


def test_a_document_has_the_same_bits_alone_and_among_any_others(eight):
    together = eight.score(QUERY, DOCUMENTS)
    assert np.array_equal([eight.score(QUERY, [document])[0] for document in DOCUMENTS], together)
    assert np.array_equal(eight.score(QUERY, DOCUMENTS[::-1])[::-1], together)
    qindex.set_threads(1)
    try:
        assert np.array_equal(eight.score(QUERY, DOCUMENTS * 9), np.tile(together, 9))
    finally:
        qindex.set_threads(2)


def test_a_longer_document_is_cut_and_its_query_is_not(eight):
    long = text(200, 5)
    kept = LENGTH - 3 - 5
    assert eight.score(QUERY, [long]) == eight.score(QUERY, [" ".join(long.split()[:kept])])


def test_a_longer_query_takes_half_of_the_room(eight):
    query = text(200, 6)
    cut = " ".join(query.split()[: LENGTH // 2])
    assert np.array_equal(eight.score(query, DOCUMENTS), eight.score(cut, DOCUMENTS))


def test_a_document_without_text_comes_last(eight):
    scores = eight.score(QUERY, ["  ", DOCUMENTS[0]])
    assert scores[0] == -np.inf
    assert scores[1] == eight.score(QUERY, DOCUMENTS[:1])[0]
    hits = [Hit(0, 0.9, "", {}, {}), Hit(1, 0.8, DOCUMENTS[0], {}, {})]
    assert [hit.id for hit in eight.rerank(QUERY, hits)] == [1, 0]
    assert [hit.id for hit in eight.rerank(QUERY, hits, fuse=Interpolation(0.0))] == [0, 1]


def test_no_documents_give_no_scores(eight):
    assert eight.score(QUERY, []).shape == (0,)


@pytest.mark.parametrize("plan", [None, EIGHT])
def test_a_saved_reranker_gives_the_same_scores_and_keeps_its_fusion(plan, tmp_path):
    reranker = CrossEncoderReranker(network(), plan=plan, tokenizer=tokenizer(), fuse=Interpolation(0.25, 3.0))
    reranker.save(tmp_path / "reranker")
    again = CrossEncoderReranker(tmp_path / "reranker")
    assert np.array_equal(again.score(QUERY, DOCUMENTS), reranker.score(QUERY, DOCUMENTS))
    assert again.fuse == Interpolation(0.25, 3.0)


def test_a_cross_encoder_of_sentence_transformers_is_taken_as_it_is(tmp_path):
    from sentence_transformers import CrossEncoder

    CrossEncoderReranker(network(), tokenizer=tokenizer()).save(tmp_path)
    theirs = CrossEncoder(str(tmp_path), device="cpu")
    wanted = theirs.predict([(QUERY, d) for d in DOCUMENTS], activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(CrossEncoderReranker(theirs).score(QUERY, DOCUMENTS), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.score(" ", DOCUMENTS), ValueError, "query must hold some text"),
        (lambda r: r.score(QUERY, "one"), TypeError, "documents must be a sequence of strings, got one string"),
        (lambda r: r.score([QUERY], DOCUMENTS), TypeError, "query must be one string, got list"),
        (lambda r: CrossEncoderReranker(network(3), tokenizer=tokenizer()), ValueError, r"one label, or two.*got 3"),
        (lambda r: CrossEncoderReranker(network()), ValueError, "tokenizer must come with a network"),
        (lambda r: CrossEncoderReranker("no/such/folder"), ValueError, "model must be a file of a reranker, a folder"),
        (lambda r: CrossEncoderReranker(torch.nn.Linear(2, 2)), TypeError, "must be a cross-encoder, got Linear"),
        (
            lambda r: CrossEncoderReranker(network(), tokenizer=tokenizer(), max_length=100),
            ValueError,
            "max_length must be from 7 to 48",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(eight, call, error, message):
    with pytest.raises(error, match=message):
        call(eight)


def test_a_file_of_another_model_is_refused(tmp_path):
    backbone = transformers.BertModel(network().config)
    lowbit.save(lowbit.quantize(backbone, EIGHT), tmp_path / "backbone.qindex", tokenizer())
    with pytest.raises(TypeError, match=r"model must be a cross-encoder, got .*BertModel"):
        CrossEncoderReranker(tmp_path / "backbone.qindex")


def test_rerankers_that_score_differently_have_other_identities():
    other = network()
    other.bert.pooler.dense.weight.data.mul_(2)
    given = [
        {"model": network()}, {"model": other}, {"model": network(), "plan": EIGHT}, {"model": network(2)},
        {"model": network(), "max_length": 20}, {"model": network(), "fuse": Interpolation(0.5, 3.0)},
    ]  # fmt: skip
    named = [CrossEncoderReranker(tokenizer=tokenizer(), **one).identity for one in given]
    assert len(set(named)) == len(given)
    assert CrossEncoderReranker(network(), tokenizer=tokenizer()).identity == named[0]
