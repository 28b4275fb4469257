"""Saving happens entirely or not at all, and leaves an ordinary file."""

import os
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import io
from qindex.formats import INT8
from qindex.types import Codes

ROOT = Path(__file__).parents[2]

# Saves 8 MiB where the kernel lets a file grow to 1 MiB only. By default Python ignores the signal, so that the write
# fails like one on a full disk; with the system's own action it kills the process in the middle of the write.
WRITE_TOO_MUCH = """
import resource, signal, sys
import numpy as np
from qindex import io
from qindex.formats import INT8
from qindex.types import Codes

if sys.argv[2] == "die":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    io.save(sys.argv[1], Codes(np.zeros((1 << 21, 4), np.uint8), INT8, 4, 1.0))
except OSError as error:
    sys.exit(f"OSError {error.errno}")
"""


@io.register("test-atomic")
@dataclass(frozen=True, eq=False)
class Thing:
    data: NDArray[np.uint8]


def small() -> Codes:
    return Codes(np.arange(8, dtype=np.uint8).reshape(2, 4), INT8, 4, 1.0)


def write_too_much(path: Path, how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITE_TOO_MUCH, str(path), how], cwd=ROOT, capture_output=True, text=True, check=False
    )


posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX resource limits and permissions")


@posix
def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "codes"
    io.save(path, small())
    before = path.read_bytes()
    result = write_too_much(path, "fail")
    assert (result.returncode, result.stderr.strip()[:7]) == (1, "OSError")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@posix
def test_a_killed_writer_leaves_the_old_file_and_does_not_hinder_the_next(tmp_path):
    path = tmp_path / "codes"
    io.save(path, small())
    before = path.read_bytes()
    assert write_too_much(path, "die").returncode == -signal.SIGXFSZ
    assert path.read_bytes() == before
    io.save(path, Thing(np.ones(3, np.uint8)))
    np.testing.assert_array_equal(io.load(path, verify=True).data, [1, 1, 1])


@posix
def test_a_saved_file_has_the_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").touch()
    io.save(tmp_path / "codes", small())
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "codes")]
    assert modes[0] == modes[1]


def test_a_new_file_replaces_the_old_one_and_leaves_no_other(tmp_path):
    path = tmp_path / "codes"
    io.save(str(path), Thing(np.zeros(100_000, np.uint8)))
    io.save(path, small())
    assert isinstance(io.load(str(path)), Codes)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"existing folder; create .*missing"):
        io.save(tmp_path / "missing" / "codes", small())


def test_a_folder_is_not_a_place_to_save_to(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        io.save(tmp_path, small())
