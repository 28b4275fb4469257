"""What is measured of a library: an index that can be built, set, asked and written to a file."""

import itertools
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex.types import Vectors

Ids = NDArray[np.int64]
Setting = Mapping[str, Any]


class Engine(ABC):
    """An index of one library. Vectors are normalised, and the metric is the inner product."""

    library: str
    # About as slow to build as it is to wait for: built on all cores, and compared by processor time.
    slow = False

    def __init__(self, name: str, line: str, ladder: Sequence[Setting]) -> None:
        self.name = name
        self.line = line  # of the picture: engines of a line are drawn as one, by the best of them
        self.ladder = ladder  # settings of a search

    def warm_up(self, vectors: Vectors) -> None:  # noqa: B027
        """Do what happens once on a machine, and not for each index."""

    @abstractmethod
    def fit(self, vectors: Vectors, threads: int) -> None:
        """Build the index. Searches then run on one thread."""

    @abstractmethod
    def set(self, **setting: Any) -> None:
        """Choose how the next queries are answered: one of `ladder`."""

    @abstractmethod
    def query(self, queries: Vectors, k: int) -> Ids:
        """The rows found for each of (m, dim) floats: (m, k). What queries need to be prepared is part of it."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what a search needs."""

    @property
    def n_bytes(self) -> int:
        """Of the files that `save` writes: codes, links, ids and all."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder))
            return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def grid(**values: Sequence[Any]) -> list[Setting]:
    """All combinations of settings."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


# Of candidates that a walk keeps. Steps of a quarter to a half: recall is interpolated between them.
BEAMS = (10, 12, 16, 20, 24, 32, 40, 56, 80, 112, 160, 224, 320, 448)
# Of lists that are looked into.
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
