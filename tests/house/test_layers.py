"""Imports point down only. An import inside a function counts like any other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("qindex/**/*.py"), *ROOT.glob("kernels/qindex_kernels/**/*.py")])

# From low to high. Parts of one layer do not import each other, but for those in SAME_LAYER.
LAYERS = [
    ["qindex_kernels"],
    ["memory"],
    ["formats", "types", "threads"],
    ["device"],
    ["backend"],
    ["kernels", "layers", "io"],
    ["transform", "quantize"],
    ["index", "lowbit"],
    ["encode", "rerank"],
    ["search"],
    ["collection"],
    ["evaluate", "serve", "adapters", "distributed"],
    ["opening"],
    ["qindex"],  # the package's own file, with the public names
    ["cli"],
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
SAME_LAYER = {("types", "formats"), ("transform", "quantize"), ("quantize", "transform")}


def part_of(module: str) -> str:
    """The part of the house that `qindex.index.flat` or `qindex_kernels.cpu.topk` belongs to."""
    names = module.split(".")
    return names[1] if names[0] == "qindex" and len(names) > 1 else names[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import of the two packages."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name"
            modules = [f"qindex.{name.name}" for name in node.names if name.name in LEVEL]
            found = modules if node.module == "qindex" and modules else [str(node.module)]
        else:
            continue
        yield from ((node.lineno, name) for name in found if name.split(".")[0] in ("qindex", "qindex_kernels"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = parts[1] if parts[1] != "__init__" else "qindex"
    assert own in LEVEL, f"give {own} a place in LAYERS"
    for line, module in imports(path):
        other = part_of(module)
        down = LEVEL[other] < LEVEL[own] or own == other or (own, other) in SAME_LAYER
        assert down, f"{path}:{line}: {own} must not import {other}"
        assert other != "qindex_kernels" or own in (other, "device", "backend", "kernels", "layers"), (
            f"{path}:{line}: go through qindex/kernels.py or layers.py"
        )
