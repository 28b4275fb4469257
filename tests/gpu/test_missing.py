"""Without a GPU, or without what drives one, the door and the doctor say so."""

import importlib.util
import sys

import numpy as np
import pytest

from qindex import kernels
from qindex.device import gpu, why_no_gpu
from qindex.formats import INT8
from qindex.types import Codes

CODES = Codes(np.zeros((3, 8), np.uint8), INT8, 8, 0.0)


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_what_is_not_installed_is_named_with_the_way_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"to_device needs torch and triton: pip install 'qindex\[gpu\]'"):
        kernels.to_device(CODES, "cuda")
    assert gpu().startswith("none: ")
    assert name in gpu()


@pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU here")
@pytest.mark.skipif(not (importlib.util.find_spec("torch") and importlib.util.find_spec("triton")), reason="no torch")
def test_a_machine_without_a_gpu_says_why() -> None:
    with pytest.raises(ValueError, match=r"device must be a GPU, got 'cuda', but there is none: \w"):
        kernels.to_device(CODES, "cuda")


def test_the_doctor_knows_of_the_gpu() -> None:
    assert kernels.machine()["gpu"] == gpu()
