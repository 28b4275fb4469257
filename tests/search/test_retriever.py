import numpy as np
import pytest

from qindex import fit_adapter
from qindex.index.flat import FlatIndex
from qindex.quantize import Float32
from qindex.rerank import Interpolation
from qindex.search.retriever import Retriever
from qindex.types import Hit

WORDS = ["cat", "dog", "sky", "sea"]
TEXTS = ["the cat", "the dog and the cat", "blue sky", "sea and sky"]
IDS = [30, 10, 40, 20]


class WordEncoder:
    """Counts four words: the vector of a text says which of them it has."""

    dim = len(WORDS)
    identity = "words"

    def encode_document(self, texts):
        return np.array([[text.split().count(word) for word in WORDS] for text in texts], np.float32).reshape(-1, 4)

    encode_query = encode_document


@pytest.fixture
def index():
    return FlatIndex.build(WordEncoder().encode_document(TEXTS), Float32(), ids=IDS)


def test_each_question_gets_its_texts_best_first(index):
    retriever = Retriever(WordEncoder(), index, TEXTS)
    hits = retriever.search(["dog dog cat", "sea"], k=2)
    assert [[hit.text for hit in row] for row in hits] == [
        ["the dog and the cat", "the cat"],
        ["sea and sky", TEXTS[1]],
    ]
    assert hits[0][0] == Hit(10, 3.0, "the dog and the cat", {}, {"index": 3.0})


def test_metadata_rides_with_its_text(index):
    metadata = [{"source": f"{id}.txt"} for id in IDS]
    hits = Retriever(WordEncoder(), index, TEXTS, metadata=metadata).search(["blue sky"], k=4)
    assert all(hit.metadata == {"source": f"{hit.id}.txt"} for hit in hits[0])


def test_where_fewer_than_k_exist_there_are_fewer_hits(index):
    retriever = Retriever(WordEncoder(), index, TEXTS)
    assert [len(row) for row in retriever.search(["cat", "sky"], k=100)] == [4, 4]
    assert [hit.id for hit in retriever.search(["cat"], k=3, allow=[10])[0]] == [10]


def test_each_question_may_have_its_own_filter(index):
    hits = Retriever(WordEncoder(), index, TEXTS).search(["cat", "cat"], allow=[[40], [30, 20]])
    assert [[hit.id for hit in row] for row in hits] == [[40], [30, 20]]


def test_no_questions_have_no_answers(index):
    assert Retriever(WordEncoder(), index, TEXTS).search([]) == []


def test_a_bare_string_is_refused(index):
    with pytest.raises(TypeError, match=r"pass \['cat'\]"):
        Retriever(WordEncoder(), index, TEXTS).search("cat")
    with pytest.raises(TypeError, match="one string"):
        Retriever(WordEncoder(), index, "text")


def test_k_must_be_positive(index):
    with pytest.raises(ValueError, match="k must be"):
        Retriever(WordEncoder(), index, TEXTS).search(["cat"], k=0)


def test_misaligned_texts_and_metadata_say_both_lengths(index):
    with pytest.raises(ValueError, match="the index holds 4, got 3 texts"):
        Retriever(WordEncoder(), index, TEXTS[:3])
    with pytest.raises(ValueError, match="the index holds 4, got 1 entries"):
        Retriever(WordEncoder(), index, TEXTS, metadata=[{}])


def test_another_dim_says_both(index):
    wide = FlatIndex.build(np.ones((4, 5), np.float32), Float32())
    with pytest.raises(ValueError, match="vectors of dim 4, but index holds dim 5"):
        Retriever(WordEncoder(), wide, TEXTS)


def test_an_index_that_has_grown_is_noticed(index):
    retriever = Retriever(WordEncoder(), index, TEXTS)
    index.add(WordEncoder().encode_document(["dog " * 9]), ids=[99])
    with pytest.raises(ValueError, match="id 99, which has no text"):
        retriever.search(["dog"])


class LongestFirst:
    """A reranker that likes long texts."""

    def score(self, query, documents):
        return np.array([len(document) for document in documents], np.float32)


def test_a_reranker_orders_the_hits_of_the_index(index):
    retriever = Retriever(WordEncoder(), index, TEXTS, reranker=LongestFirst())
    [hits] = retriever.search(["cat"], k=2)
    assert [hit.text for hit in hits] == ["the dog and the cat", "sea and sky"]
    assert hits[0].stages == {"index": 1.0, "reranker": 19.0}
    assert not hits.partial


def test_depth_says_how_many_hits_the_reranker_reads(index):
    retriever = Retriever(WordEncoder(), index, TEXTS, reranker=LongestFirst())
    assert [hit.text for hit in retriever.search(["sea"], k=1, depth=1)[0]] == ["sea and sky"]


def test_a_fusion_keeps_what_the_index_found(index):
    retriever = Retriever(WordEncoder(), index, TEXTS, reranker=LongestFirst(), fuse=Interpolation(0.0))
    assert [hit.text for hit in retriever.search(["sea"], k=1)[0]] == ["sea and sky"]


def test_settings_of_a_reranker_without_one_are_refused(index):
    with pytest.raises(ValueError, match="fuse must come with a reranker"):
        Retriever(WordEncoder(), index, TEXTS, fuse=Interpolation(1.0))
    retriever = Retriever(WordEncoder(), index, TEXTS)
    for setting in ({"depth": 5}, {"budget_ms": 100}):
        with pytest.raises(ValueError, match="depth and budget_ms are for a reranker"):
            retriever.search(["sea"], k=1, **setting)
    with pytest.raises(ValueError, match="depth must be at least k, 3, got 2"):
        Retriever(WordEncoder(), index, TEXTS, reranker=LongestFirst()).search(["sea"], k=3, depth=2)


class NewWordEncoder(WordEncoder):
    """The same counts in another order, and one more number."""

    dim = len(WORDS) + 1
    identity = "new words"

    def encode_document(self, texts):
        return np.pad(super().encode_document(texts)[:, ::-1], ((0, 0), (0, 1)))

    encode_query = encode_document


def adapter_to_words(**identities):
    texts = [*TEXTS, *WORDS]
    return fit_adapter(WordEncoder().encode_document(texts), NewWordEncoder().encode_document(texts), **identities)


def test_through_an_adapter_a_new_encoder_finds_what_the_old_one_does(index):
    questions = ["dog dog cat", "sea", "blue sky"]
    for identities in ({}, {"old_identity": "words", "new_identity": "new words"}):
        retriever = Retriever(NewWordEncoder(), index, TEXTS, adapter=adapter_to_words(**identities))
        for found, wanted in zip(
            retriever.search(questions), Retriever(WordEncoder(), index, TEXTS).search(questions), strict=True
        ):
            assert {hit.id: pytest.approx(hit.score, abs=1e-5) for hit in wanted} == {
                hit.id: hit.score for hit in found
            }


def test_an_adapter_for_another_encoder_or_index_is_refused(index):
    with pytest.raises(ValueError, match="fitted for the encoder 'newest', but encoder is 'new words'"):
        Retriever(NewWordEncoder(), index, TEXTS, adapter=adapter_to_words(new_identity="newest"))
    with pytest.raises(ValueError, match="from the encoder's dim 4 to that of the index, 4, got one from 5 to 4"):
        Retriever(WordEncoder(), index, TEXTS, adapter=adapter_to_words())
    wide = FlatIndex.build(np.ones((4, 6), np.float32), Float32())
    with pytest.raises(ValueError, match="to that of the index, 6, got one from 5 to 4; fit one with fit_adapter"):
        Retriever(NewWordEncoder(), wide, TEXTS, adapter=adapter_to_words())
