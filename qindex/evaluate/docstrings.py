"""Real text that every machine has: the documentation strings of its Python packages, parsed and never imported."""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from qindex.collection.sources import Document

Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

MIN_CHARS = 80
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "testing", "idlelib", "lib2to3", "turtledemo"}


def docstrings(limit: int) -> list[Document]:
    """The first `limit` docstrings of at least 80 characters that differ: the standard library's, then the others'.

    A document's source is the qualified name, and its text that name, an empty line and the docstring. Only public
    names count. The order is that of the paths, so an environment gives the same documents every time.
    """
    found: dict[str, Document] = {}
    for name, docstring in _public_docstrings():
        if len(docstring) >= MIN_CHARS and docstring not in found:
            found[docstring] = Document(name, f"{name}\n\n{docstring}")
            if len(found) == limit:
                break
    return list(found.values())


def _public_docstrings() -> Iterator[tuple[str, str]]:
    paths = sysconfig.get_paths()
    for root in dict.fromkeys(paths[key] for key in ("stdlib", "purelib", "platlib")):
        for file in _python_files(Path(root)):
            try:
                with warnings.catch_warnings(action="ignore"):  # about other people's string escapes
                    tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError):  # written for another version, or on purpose
                continue
            yield from _walk(tree, ".".join(file.relative_to(root).with_suffix("").parts))


def _python_files(root: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if _is_public(name) and name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            if name.endswith(".py") and (name == "__init__.py" or _is_public(name)):
                yield Path(parent, name)


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _walk(node: Node, name: str) -> Iterator[tuple[str, str]]:
    name = name.removesuffix(".__init__")
    docstring = ast.get_docstring(node)
    if docstring:
        # An escape sequence can spell half a surrogate pair, which no text file could hold.
        yield name, docstring.encode(errors="replace").decode()
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(child.name):
                yield from _walk(child, f"{name}.{child.name}")
