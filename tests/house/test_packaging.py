"""The wheel holds two top-level packages and all their parts, and the source root `kernels` shadows nobody."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the wheel, built offline from a copy of the sources."""
    if not importlib.util.find_spec("setuptools") or int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("building without a network needs setuptools 77 or newer in this environment")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("qindex", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True, timeout=300)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_two_top_level_packages(wheel: dict[str, bytes]) -> None:
    top = {name.split("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"qindex", "qindex_kernels"}


def test_the_wheel_has_every_module_and_says_that_it_is_typed(wheel: dict[str, bytes]) -> None:
    roots = {ROOT: ROOT / "qindex", ROOT / "kernels": ROOT / "kernels" / "qindex_kernels"}
    written = {path.relative_to(root).as_posix() for root, folder in roots.items() for path in folder.rglob("*.py")}
    assert {name for name in wheel if name.endswith(".py")} == written
    assert {"qindex/py.typed", "qindex/index/flat.py", "qindex_kernels/cpu/topk.py"} <= wheel.keys()
    assert {"qindex/evaluate/page.css", "qindex/evaluate/page.js"} <= wheel.keys()


def test_the_wheel_has_the_command_and_the_licence(wheel: dict[str, bytes]) -> None:
    (info,) = {name.split("/")[0] for name in wheel if name.split("/")[0].endswith(".dist-info")}
    assert b"qindex = qindex.cli:app" in wheel[f"{info}/entry_points.txt"]
    assert wheel[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_kernels_is_a_source_root_and_no_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_transformers_does_not_take_our_folder_for_its_kernels() -> None:
    """It looks for a module named `kernels`, and imports what it finds unless that is a bare folder."""
    if not importlib.util.find_spec("transformers"):
        pytest.skip("transformers is not installed")
    script = """
import sys, transformers, transformers.utils
print(transformers.utils.is_kernels_available(), getattr(sys.modules.get("kernels"), "__file__", None))
"""
    installed = any(one.metadata["Name"] == "kernels" for one in importlib.metadata.distributions())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
    assert str(ROOT / "kernels") not in done.stdout
