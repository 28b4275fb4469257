import re
import shutil
import sqlite3
import zlib

import numpy as np
import pytest

from qindex import fit_adapter
from qindex.collection.collection import Collection
from qindex.collection.sources import Document
from qindex.io import FormatError
from qindex.quantize import Binary, Chain, Float32, Int8
from qindex.transform import PCA, Rotation

FRUIT = [
    Document("fruit.txt", "apples grow on trees\n\nbananas are yellow\n\ncherries are red"),
    Document("facts.jsonl", "the sky is blue", line=3, metadata={"_id": "s3", "source": "sky survey"}),
]


class Words:
    """Encodes a text as the signed, normalised counts of its words' hashes."""

    dim = 256
    identity = "words"

    def encode_document(self, texts):
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                number = zlib.crc32(word.encode())
                row[number % self.dim] += 1 if number & 1024 else -1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    encode_query = encode_document


class Noise(Words):
    """Encodes each text as random numbers of its own."""

    def encode_document(self, texts):
        seeds = [zlib.crc32(text.encode()) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=self.dim) for seed in seeds])

    encode_query = encode_document


class During(Words):
    """Does something while it encodes documents."""

    def __init__(self, action):
        self.action = action

    def encode_document(self, texts):
        self.action()
        return super().encode_document(texts)


@pytest.fixture
def fruit(tmp_path):
    return Collection.build(tmp_path / "fruit", FRUIT, Words(), Float32(), max_chars=25)


def edit(collection, *statements):
    """Run SQL on the catalogue."""
    connection = sqlite3.connect(collection.path / "catalogue.sqlite")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_a_hit_has_its_passage_and_says_where_it_stands(fruit):
    [[hit], [other]] = Collection.open(fruit.path).search(["yellow bananas", "blue sky"], k=1, encoder=Words())
    assert hit.text == "bananas are yellow"
    assert hit.metadata == {"source": "fruit.txt", "start": 22, "end": 40, "fields": {}}
    assert hit.stages == {"index": hit.score}
    assert other.text == "the sky is blue"
    fields = {"_id": "s3", "source": "sky survey"}
    assert other.metadata == {"source": "facts.jsonl", "line": 3, "start": 0, "end": 15, "fields": fields}


def test_offsets_cut_the_passage_out_of_its_document(fruit):
    documents = {document.source: document.text for document in FRUIT}
    [hits] = fruit.search(["are"], encoder=Words())
    assert len(hits) == len(fruit) == 4
    for hit in hits:
        at = hit.metadata
        assert documents[at["source"]][at["start"] : at["end"]] == hit.text


def test_every_passage_finds_itself_with_each_quantizer(tmp_path):
    texts = [f"text {i}" for i in range(60)]
    documents = [Document(f"{i}.txt", text) for i, text in enumerate(texts)]
    for quantizer, rescore in ((Int8(), None), (Int8("dim"), None), (Binary(), Int8())):
        collection = Collection.build(tmp_path / "c", documents, Noise(), quantizer, rescore=rescore)
        assert [hits[0].text for hits in collection.search(texts, 1, encoder=Noise())] == texts


def test_info_says_what_is_there(tmp_path):
    collection = Collection.build(tmp_path / "c", FRUIT, Words(), Binary(), rescore=Int8("dim"), model="somewhere")
    info = Collection.open(tmp_path / "c").info()
    assert info == {
        "encoder": "words",
        "model": "somewhere",
        "quantizer": "Binary(center=False) + Int8(scale='dim')",
        "segment": collection.meta.segment,
        "dim": 256,
        "passages": 2,
        "sources": 2,
        "segment_bytes": (collection.path / collection.meta.segment).stat().st_size,
        "catalogue_bytes": (collection.path / "catalogue.sqlite").stat().st_size,
    }


def test_info_names_the_steps_of_a_chain(tmp_path):
    chain = Chain(PCA(kept=0.5), Rotation(), Int8())
    collection = Collection.build(tmp_path / "c", FRUIT, Words(), chain)
    assert collection.meta.quantizer == "Chain(PCA(kept=0.5), Rotation(seed=0), Int8(scale='vector'))"
    assert Collection.open(tmp_path / "c").info()["dim"] == 256


def test_a_build_replaces_everything_and_leaves_nothing_behind(fruit):
    Collection.build(fruit.path, [Document("new.txt", "roses are red")], Words())
    collection = Collection.open(fruit.path)
    [hits] = collection.search(["bananas"], encoder=Words())
    assert [hit.text for hit in hits] == ["roses are red"]
    assert collection.meta.quantizer == "Int8(scale='vector')"
    assert {file.name for file in fruit.path.iterdir()} == {"catalogue.sqlite", collection.meta.segment}


def test_an_opened_collection_says_that_it_was_built_anew(fruit):
    Collection.build(fruit.path, FRUIT, Words())
    with pytest.raises(ValueError, match="was built anew since it was opened; open it again"):
        fruit.search(["bananas"], encoder=Words())


def test_the_old_collection_answers_while_a_build_runs(fruit):
    answers = []

    def ask():
        answers.extend(Collection.open(fruit.path).search(["bananas"], 1, encoder=Words())[0])

    Collection.build(fruit.path, FRUIT[1:], During(ask))
    assert [hit.text for hit in answers] == ["bananas are yellow"]
    assert len(Collection.open(fruit.path)) == 1


@pytest.mark.parametrize("existing", [True, False])
def test_a_second_build_at_the_same_time_is_refused(tmp_path, existing):
    if existing:
        Collection.build(tmp_path / "c", FRUIT, Words())

    def build_too():
        with pytest.raises(ValueError, match=r"cannot be written now .*: is another build running"):
            Collection.build(tmp_path / "c", FRUIT, Words())

    Collection.build(tmp_path / "c", FRUIT[1:], During(build_too))
    assert len(Collection.open(tmp_path / "c")) == 1


def test_a_build_that_fails_leaves_the_old_collection(fruit):
    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        Collection.build(fruit.path, FRUIT[1:], During(fail))
    assert len(Collection.open(fruit.path)) == 4


@pytest.mark.parametrize(
    "documents", [[], [Document("a.txt", "")], [Document("a.txt", " \n"), Document("b.txt", "\t")]]
)
def test_documents_without_text_are_refused_before_anything_changed(tmp_path, documents):
    with pytest.raises(ValueError, match="documents must hold some text"):
        Collection.build(tmp_path / "c", documents, Words())
    assert not (tmp_path / "c").exists()


def test_an_empty_document_among_others_is_left_out_with_a_warning(tmp_path, caplog):
    collection = Collection.build(tmp_path / "c", [Document("a.txt", " "), *FRUIT], Words())
    assert "1 of 3 documents hold no text" in caplog.text
    assert len(collection) == 2


def test_a_folder_with_other_things_is_refused_before_encoding(tmp_path):
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(ValueError, match="neither empty nor a collection"):
        Collection.build(tmp_path, FRUIT, During(pytest.fail))
    with pytest.raises(ValueError, match="must be a folder, but it is a file"):
        Collection.build(tmp_path / "thesis.doc", FRUIT, During(pytest.fail))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.doc"]


def test_an_empty_folder_may_become_a_collection(tmp_path):
    assert len(Collection.build(tmp_path, FRUIT, Words())) == 2


def test_another_encoder_is_refused_and_both_are_named(fruit):
    other = Words()
    other.identity = "letters"
    with pytest.raises(ValueError, match=r"built with the encoder 'words', but encoder is 'letters'.* an adapter"):
        fruit.search(["bananas"], encoder=other)


class Turned(Words):
    """The same vectors with their numbers in another order."""

    identity = "turned"

    def encode_document(self, texts):
        return super().encode_document(texts)[:, ::-1]

    encode_query = encode_document


def adapter_between(**identities):
    texts = [f"{word} {number}" for number in range(100) for word in ("bananas", "yellow", "sky")]
    return fit_adapter(Words().encode_document(texts), Turned().encode_document(texts), **identities)


def test_through_an_adapter_another_encoder_may_search(fruit):
    adapter = adapter_between(old_identity="words", new_identity="turned")
    [hits] = fruit.search(["yellow bananas"], encoder=Turned(), adapter=adapter)
    [wanted] = fruit.search(["yellow bananas"], encoder=Words())
    assert [(hit.id, hit.text) for hit in hits] == [(hit.id, hit.text) for hit in wanted]
    assert fruit.search([], encoder=Turned(), adapter=adapter) == []


@pytest.mark.parametrize(
    ("identities", "message"),
    [
        ({}, "space 'turned' to that of the collection .*, 'words', got one from None to None"),
        ({"new_identity": "turned"}, "got one from 'turned' to None"),
        ({"old_identity": "letters", "new_identity": "turned"}, "got one from 'turned' to 'letters'; fit one with"),
        ({"old_identity": "words", "new_identity": "letters"}, "fitted for the encoder 'letters', but .* 'turned'"),
    ],
)
def test_an_adapter_of_other_spaces_is_refused_and_both_are_named(fruit, identities, message):
    with pytest.raises(ValueError, match=message):
        fruit.search(["bananas"], encoder=Turned(), adapter=adapter_between(**identities))


def test_a_bare_string_is_refused(fruit):
    with pytest.raises(TypeError, match="texts must be a sequence of strings"):
        fruit.search("bananas", encoder=Words())


def test_k_below_one_is_refused(fruit):
    with pytest.raises(ValueError, match="k must"):
        fruit.search(["bananas"], 0, encoder=Words())


def test_no_questions_have_no_answers(fruit):
    assert fruit.search([], encoder=Words()) == []


def test_a_folder_that_does_not_exist_or_is_no_collection_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        Collection.open(tmp_path / "none")
    with pytest.raises(FormatError, match=r"is not a collection: it has no catalogue\.sqlite"):
        Collection.open(tmp_path)


def test_a_newer_schema_is_refused_with_both_versions(fruit):
    edit(fruit, "PRAGMA user_version = 2")
    for attempt in (Collection.open, lambda path: Collection.build(path, FRUIT, During(pytest.fail))):
        with pytest.raises(FormatError, match="has schema version 2, this qindex reads version 1"):
            attempt(fruit.path)


def test_a_database_of_another_program_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / "catalogue.sqlite")
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    for attempt in (Collection.open, lambda path: Collection.build(path, FRUIT, During(pytest.fail))):
        with pytest.raises(FormatError, match="is a database of another program"):
            attempt(tmp_path)


def test_a_truncated_catalogue_is_refused(fruit):
    path = fruit.path / "catalogue.sqlite"
    whole = path.read_bytes()
    for size in (100, 512, 4096, len(whole) - 4096, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"catalogue\.sqlite (cannot be used|is truncated)"):
            Collection.open(fruit.path)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match="not a collection yet: its first build was cut off"):
        Collection.open(fruit.path)


def test_a_catalogue_that_is_not_a_database_is_refused(fruit):
    (fruit.path / "catalogue.sqlite").write_text("dear diary " * 1000)
    with pytest.raises(FormatError, match="file is not a database"):
        Collection.open(fruit.path)
    with pytest.raises(FormatError, match="file is not a database"):
        Collection.build(fruit.path, FRUIT, During(pytest.fail))


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM meta WHERE key = 'dim'", "meta table must have encoder, model"),
        ("UPDATE meta SET value = 'many' WHERE key = 'passages'", "meta table must have encoder, model"),
        ("UPDATE meta SET value = '../other.qindex' WHERE key = 'segment'", "a segment of its own folder"),
        ("DROP TABLE passages", "no such table"),
        ("UPDATE meta SET value = '5' WHERE key = 'passages'", "holds 4 passages, but its catalogue has 5"),
        ("DELETE FROM passages WHERE id = 3", "holds 4 passages, but its catalogue has 4, the last of them 2"),
    ],
)
def test_a_catalogue_that_contradicts_itself_is_refused(fruit, statement, message):
    edit(fruit, statement)
    with pytest.raises(FormatError, match=message):
        Collection.open(fruit.path)


def test_a_passage_missing_in_the_catalogue_is_named_when_it_is_found(fruit):
    edit(fruit, "DELETE FROM passages WHERE id = 1")
    with pytest.raises(FormatError, match="the index holds passage 1, but the catalogue does not"):
        Collection.open(fruit.path).search(["bananas"], encoder=Words())


def test_a_missing_segment_is_named(fruit):
    (fruit.path / fruit.meta.segment).unlink()
    with pytest.raises(FormatError, match=f"{fruit.meta.segment} is missing"):
        Collection.open(fruit.path)


def test_a_segment_of_another_collection_is_refused(fruit, tmp_path):
    other = Collection.build(tmp_path / "other", FRUIT, Words())
    shutil.copy(other.path / other.meta.segment, fruit.path / fruit.meta.segment)
    with pytest.raises(FormatError, match="holds 2 passages, but its catalogue has 4"):
        Collection.open(fruit.path)


def test_a_truncated_segment_is_refused(fruit):
    path = fruit.path / fruit.meta.segment
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="truncated"):
        Collection.open(fruit.path)


def test_a_segment_name_that_leads_out_of_the_folder_removes_nothing(fruit, tmp_path):
    (tmp_path / "precious").touch()
    edit(fruit, "UPDATE meta SET value = '../precious' WHERE key = 'segment'")
    Collection.build(fruit.path, FRUIT, Words())
    assert (tmp_path / "precious").exists()


def test_text_that_is_not_unicode_is_refused():
    with pytest.raises(ValueError, match=r"text of 'a\.txt' must be valid Unicode, but character 1"):
        Document("a.txt", "x\udc80")
    with pytest.raises(ValueError, match=r"source of 'a\\udc80' must be valid Unicode, but character 1"):
        Document("a\udc80", "x")
