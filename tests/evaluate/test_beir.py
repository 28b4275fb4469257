import json
import re

import pytest

from qindex.evaluate.beir import load_beir

CORPUS = [
    {"_id": "d1", "title": "A", "text": "one"},
    {"_id": "d2", "text": "two"},
    {"_id": "d3", "title": "", "text": ""},
]
QUERIES = [{"_id": "q1", "text": "first?"}, {"_id": "q2", "text": "second?"}, {"_id": "q3", "text": "unjudged?"}]
QRELS = "query-id\tcorpus-id\tscore\nq2\td1\t3\nq1\td2\t1\nq1\td3\t-1\n"


def write(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS):
    """Write a collection; a line that is a string is written as it is."""
    (folder / "qrels").mkdir()
    for name, records in (("corpus", corpus), ("queries", queries)):
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


def refused(folder, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_beir(folder)


def test_a_document_is_its_title_and_its_text(tmp_path):
    assert load_beir(write(tmp_path)).documents == {"d1": "A one", "d2": "two", "d3": ""}


def test_grades_stay_as_they_are(tmp_path):
    assert load_beir(write(tmp_path)).qrels == {"q2": {"d1": 3}, "q1": {"d2": 1, "d3": -1}}


def test_only_judged_queries_are_kept_in_the_order_of_their_file(tmp_path):
    assert list(load_beir(write(tmp_path)).queries.items()) == [("q1", "first?"), ("q2", "second?")]


def test_blank_lines_and_foreign_line_ends_do_no_harm(tmp_path):
    write(tmp_path, corpus=[CORPUS[0], "", CORPUS[1], CORPUS[2]], qrels=QRELS.replace("\n", "\r\n"))
    assert len(load_beir(tmp_path).documents) == 3


def test_a_judged_document_that_is_missing_stays_and_is_logged(tmp_path, caplog):
    collection = load_beir(write(tmp_path, qrels=QRELS + "q1\td9\t1\n"))
    assert collection.qrels["q1"]["d9"] == 1
    assert "judges 1 documents that corpus.jsonl lacks" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "d9", "text": ', "corpus.jsonl line 4 must be a JSON object: "),
        ("[1, 2]", "corpus.jsonl line 4 must be a JSON object, got list"),
        ({"_id": "d9", "body": "x"}, "corpus.jsonl line 4 must have a string in 'text', got only '_id', 'body'"),
        ({"text": "x"}, "corpus.jsonl line 4 must have a string in '_id', got only 'text'"),
        ({"_id": 9, "text": "x"}, "corpus.jsonl line 4 must have a string in '_id', got int"),
        ({"_id": "d9", "title": None, "text": "x"}, "corpus.jsonl line 4 must have a string in 'title', got NoneType"),
        ({"_id": "d1", "text": "x"}, "corpus.jsonl line 4: the id 'd1' comes for the second time"),
    ],
)
def test_a_malformed_document_is_named_by_its_line(tmp_path, line, message):
    refused(write(tmp_path, corpus=[*CORPUS, line]), message)


def test_a_query_that_comes_twice_is_named_by_its_line(tmp_path):
    refused(
        write(tmp_path, queries=[*QUERIES, QUERIES[0]]), "queries.jsonl line 4: the id 'q1' comes for the second time"
    )


def test_text_that_is_not_utf8_is_named_by_its_line(tmp_path):
    write(tmp_path)
    with (tmp_path / "corpus.jsonl").open("ab") as file:
        file.write(b'{"_id": "d9", "text": "caf\xe9"}\n')
    refused(tmp_path, "corpus.jsonl line 4 must be UTF-8: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td1", "test.tsv line 5 must have 3 fields between tabs, got 2: 'q1\\td1'"),
        ("q1 d1 1", "test.tsv line 5 must have 3 fields between tabs, got 1"),
        ("q1\td1\t0.5", "test.tsv line 5 must end in a grade, an integer, got '0.5'"),
        ("q1\td2\t2", "test.tsv line 5: document 'd2' is judged for query 'q1' for the second time"),
        ("q9\td2\t2", "test.tsv line 5: queries.jsonl has no query 'q9'"),
    ],
)
def test_a_malformed_judgement_is_named_by_its_line(tmp_path, line, message):
    refused(write(tmp_path, qrels=f"{QRELS}{line}\n"), message)


@pytest.mark.parametrize("qrels", ["", "q1\td1\t1\n"])
def test_judgements_without_their_header_are_refused(tmp_path, qrels):
    refused(write(tmp_path, qrels=qrels), "test.tsv line 1 must be the header query-id <tab> corpus-id <tab> score")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus\.jsonl"):
        load_beir(tmp_path)
