import json

import pytest

from qindex.collection.sources import Document, read_sources


def texts(*sources, **options):
    return [document.text for document in read_sources(sources, **options)]


def test_a_text_file_is_one_document_with_its_own_line_ends(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one\r\ntwo\n")
    assert list(read_sources([file])) == [Document(str(file), "one\r\ntwo\n")]


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone")
    assert texts(tmp_path / "a.txt") == ["one"]


def test_a_folder_is_walked_in_the_order_of_names_and_passes_over_hidden_and_other_files(tmp_path):
    for name in ("z.md", "b/y.rst", "b/a/x.TXT", "c.py", ".git/d.txt", ".e.txt", "b/d.jsonl"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"text": "b/d.jsonl"}' if name.endswith("jsonl") else name)
    assert texts(tmp_path) == ["z.md", "b/d.jsonl", "b/y.rst", "b/a/x.TXT"]


def test_a_file_reached_twice_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    assert texts(tmp_path / "a.txt", tmp_path) == ["one"]


def test_a_json_line_gives_its_text_its_number_and_its_other_scalars(tmp_path):
    file = tmp_path / "c.jsonl"
    record = {"_id": "7", "body": "hello\u2028world", "year": 1999, "tags": ["x"], "draft": None, "line": 0.5}
    file.write_text("\n" + json.dumps(record, ensure_ascii=False) + "\n")
    [document] = read_sources([file], field="body")
    assert document == Document(
        str(file), "hello\u2028world", 2, {"_id": "7", "year": 1999, "draft": None, "line": 0.5}
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "c.jsonl line 1 must be a JSON object: "),
        ("[1]", "c.jsonl line 1 must be a JSON object, got list"),
        ('{"title": "x"}', "c.jsonl line 1 has no field 'text'; it has 'title'"),
        ('{"text": 5}', "field 'text' of .*c.jsonl line 1 must be a string, got int"),
        (r'{"text": "\ud800"}', "text of .*c.jsonl line 1. must be valid Unicode"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path, line, message):
    (tmp_path / "c.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        texts(tmp_path / "c.jsonl")


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt must be UTF-8 text, but byte 1 is 0xfc"):
        texts(tmp_path)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt does not exist"):
        texts(tmp_path / "none.txt")


def test_a_source_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(ValueError, match=r"a\.pdf must be a folder or end in \.txt, \.md, \.rst, \.jsonl"):
        texts(tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="holds no file that ends in"):
        texts(tmp_path)


def test_a_field_without_json_lines_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="field is 'body', but no source is JSON lines"):
        texts(tmp_path, field="body")
