"""Builds that are killed by SIGKILL before every single call to SQLite, fsync, rename, unlink and mkdir.

Run as a script, this file is the driver that does so: each build is a forked child that kills itself.
"""

import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qindex.collection import catalogue
from qindex.collection.collection import Collection
from qindex.collection.sources import Document
from qindex.io import FormatError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

FILE_CALLS = {os.fsync, os.replace, os.unlink, os.mkdir}


class Letters:
    """Encodes a text as the counts of its letters."""

    dim = 26
    identity = "letters"

    def encode_document(self, texts):
        return np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], np.float32)

    encode_query = encode_document


def build(path, word):
    Collection.build(path, [Document(f"{i}.txt", word * (i + 1)) for i in range(50)], Letters())


def answers(path):
    """The first letters of all passages that a collection returns."""
    [hits] = Collection.open(path).search(["a"], 100, encoder=Letters())
    assert len(hits) == 50
    return {hit.text[0] for hit in hits}


def is_collection(path):
    try:
        Collection.open(path)
    except FormatError as error:
        return "is not a collection" not in str(error)
    return True


def build_and_die(path, last_call):
    """Build, and be killed when `last_call` calls that touch the disk are about to be made."""
    left = last_call

    def profile(_frame, event, function):
        nonlocal left
        if event == "c_call" and (
            function in FILE_CALLS or isinstance(function.__self__, sqlite3.Connection | sqlite3.Cursor)
        ):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(profile)
    build(path, "new")


def drive(old, folders):
    """Kill builds over copies of `old` at the first call, the second and so on, until one lives to its end."""
    for number in itertools.count(1):
        path = folders / f"{number:03}"
        if old.exists():
            shutil.copytree(old, path)
        child = os.fork()
        if child == 0:
            build_and_die(path, number)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            break
        if status != -signal.SIGKILL:
            sys.exit(f"the build over {path} failed with status {status}")


def overwrite_and_die(path):
    """Write more into the catalogue than SQLite keeps in memory, and be killed before the commit."""
    with catalogue.writing(path) as connection:
        meta = catalogue.Meta("", "", "", "segment-0.qindex", 1, 8, 1)
        rows = (catalogue.Row(i, 0, None, 0, 0, "x" * 1_000_000, "{}") for i in range(8))
        catalogue.replace_all(connection, meta, {"a.txt": 0}, rows)
        os.kill(os.getpid(), signal.SIGKILL)


def run_this_file(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, __file__, *arguments], env=environment)


@pytest.fixture
def killed(tmp_path):
    """Runs the driver: a path to an old collection, or to nothing -> the folders, the last of which lived."""

    def run(old):
        (tmp_path / "killed").mkdir()
        run_this_file(old, tmp_path / "killed").check_returncode()
        return [tmp_path / "killed" / name for name in sorted(os.listdir(tmp_path / "killed"))]

    return run


def test_a_killed_build_leaves_the_old_collection_or_the_new_one(tmp_path, killed):
    build(tmp_path / "old", "ancient")
    folders = killed(tmp_path / "old")
    found = [answers(folder) for folder in folders]
    n_old = found.count({"a"})
    assert found == [{"a"}] * n_old + [{"n"}] * (len(found) - n_old)
    left = [len(list(folder.iterdir())) for folder in folders]
    assert n_old > 10
    assert max(left) > 2  # some were killed with a segment on disk that nothing names
    for folder in folders:
        build(folder, "third")
        assert answers(folder) == {"t"}
        assert len(list(folder.iterdir())) == 2


def test_a_killed_first_build_is_no_collection_and_can_be_run_again(killed, tmp_path):
    n_unfinished = 0
    for folder in killed(tmp_path / "none"):
        if is_collection(folder):
            assert answers(folder) == {"n"}
        else:
            n_unfinished += 1
        build(folder, "third")
        assert answers(folder) == {"t"}
        assert len(list(folder.iterdir())) == 2
    assert n_unfinished > 10


def test_what_a_killed_build_wrote_into_the_catalogue_is_rolled_back(tmp_path):
    build(tmp_path / "old", "ancient")
    process = run_this_file(tmp_path / "old")
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "old" / "catalogue.sqlite-journal").stat().st_size > 0
    assert answers(tmp_path / "old") == {"a"}


if __name__ == "__main__":
    if len(sys.argv) == 2:
        overwrite_and_die(Path(sys.argv[1]))
    else:
        drive(Path(sys.argv[1]), Path(sys.argv[2]))
