from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qindex.encode.chunks import Passage, split_passages

pytest.importorskip("nupunkt", reason="splitting needs nupunkt: pip install 'qindex[encode]'")

# Text with the things that matter: sentences, abbreviations, blank lines of several kinds, long words, odd spaces.
pieces = st.sampled_from(
    [
        "Dr. Smith left. ",
        "He came back! ",
        "Why?",
        "\n\n",
        "\r\n\r\n",
        "\n \t\n",
        "\n",
        " ",
        "\u3000",
        "\x1c",
        "x" * 40,
        "雪。",
    ]
)
texts = st.one_of(st.text(max_size=200), st.lists(pieces, max_size=40).map("".join))
limits = st.integers(1, 120)


@given(texts, limits)
def test_offsets_are_exact_and_passages_are_stripped(text, max_chars):
    for passage in split_passages(text, max_chars):
        assert text[passage.start : passage.end] == passage.text == passage.text.strip() != ""


@given(texts, limits)
def test_passages_are_in_order_and_never_overlap(text, max_chars):
    passages = split_passages(text, max_chars)
    assert all(a.end <= b.start for a, b in pairwise(passages))


@given(texts, limits)
def test_every_character_but_whitespace_is_in_a_passage(text, max_chars):
    left = list(text)
    for passage in split_passages(text, max_chars):
        left[passage.start : passage.end] = [" "] * len(passage.text)
    assert "".join(left).strip() == ""


@given(texts, limits)
def test_no_passage_is_longer_than_the_limit(text, max_chars):
    assert all(len(passage.text) <= max_chars for passage in split_passages(text, max_chars))


@given(texts, limits)
def test_neighbours_would_not_fit_into_one_passage(text, max_chars):
    passages = split_passages(text, max_chars)
    assert all(b.end - a.start > max_chars for a, b in pairwise(passages))


@given(st.lists(st.text("abc .!?", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=8))
def test_a_paragraph_that_fits_is_never_divided(paragraphs):
    text = "\n\n".join(paragraphs)
    passages = split_passages(text, max_chars=40)
    assert all(any(paragraph.strip() in passage.text for passage in passages) for paragraph in paragraphs)


def test_a_short_text_is_one_passage():
    text = "  Title\n\nOne sentence. Another one.\n\nThe end.\n"
    assert split_passages(text) == [Passage(2, len(text) - 1, text.strip())]


def test_short_paragraphs_share_a_passage_with_their_neighbours():
    text = "Heading\n\nThe first sentence. The second sentence is longer.\n\n- an item\n\n- another item"
    assert [p.text for p in split_passages(text, 40)] == [
        "Heading\n\nThe first sentence.",
        "The second sentence is longer.",
        "- an item\n\n- another item",
    ]


def test_a_long_paragraph_is_divided_between_sentences_and_not_after_abbreviations():
    text = "Dr. Smith went to the U.S. embassy at noon. Mrs. Jones stayed at home with the cat."
    assert [p.text for p in split_passages(text, 50)] == [
        "Dr. Smith went to the U.S. embassy at noon.",
        "Mrs. Jones stayed at home with the cat.",
    ]


def test_a_long_sentence_is_cut_at_whitespace_and_a_long_word_within():
    assert [p.text for p in split_passages("one two three four", 9)] == ["one two", "three", "four"]
    assert [p.text for p in split_passages("abcdefgh", 3)] == ["abc", "def", "gh"]
    assert [p.text for p in split_passages("abc def", 3)] == ["abc", "def"]


@pytest.mark.parametrize("text", ["", " ", "\n\n \t\r\n", "\u3000"])
def test_a_text_of_whitespace_has_no_passages(text):
    assert split_passages(text) == []


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="one string, got list"):
        split_passages(["a text"])
    with pytest.raises(ValueError, match="max_chars must be at least 1, got 0"):
        split_passages("a text", 0)
