"""The SQLite file of a collection: which passages exist, and which index segment holds their vectors.

The catalogue is the truth. A build is one transaction on it: the transaction opens before the work starts, which
also keeps other writers out, and its commit is the moment at which the new collection takes the place of the old.
Whatever kills a writer before that leaves the old collection, for SQLite rolls back what it finds half done.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from qindex.io import FormatError

FILE_NAME = "catalogue.sqlite"
SCHEMA_VERSION = 1
APPLICATION_ID = int.from_bytes(b"qidx", "big")
# A commit waits for readers to finish, and they wait for a commit; both take milliseconds, a large commit seconds.
TIMEOUT_S = 30

SEGMENT_NAME = re.compile(r"segment-[0-9a-f]+\.qindex")

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",  # the fields of Meta
    # size: characters of all documents of the source
    "CREATE TABLE sources (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL)",
    # id: also the id in the index; start, "end": characters in the document; line: of a source with a document a line
    """CREATE TABLE passages (
        id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES sources(id), line INTEGER,
        start INTEGER NOT NULL, "end" INTEGER NOT NULL, text TEXT NOT NULL, metadata TEXT NOT NULL)""",
)


class Meta(NamedTuple):
    """What the catalogue says about the collection as a whole."""

    encoder: str  # the encoder's identity
    model: str  # how to construct that encoder again, or empty
    quantizer: str  # for people
    segment: str  # file name
    dim: int
    passages: int
    sources: int


class Row(NamedTuple):
    """A passage as the catalogue keeps it: the columns of its table."""

    id: int
    source: int
    line: int | None
    start: int
    end: int
    text: str
    metadata: str  # JSON


def check_target(folder: Path) -> None:
    """Raise unless a build may write to `folder`: a collection, an empty folder, or nothing yet."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, but it is a file")
    path = folder / FILE_NAME
    if path.exists():
        with _connect(path) as connection:
            _is_finished(connection, path)
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is neither empty nor a collection; give a new folder")


@contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """A read transaction: one state of the collection, whose segment no writer removes meanwhile."""
    path = folder / FILE_NAME
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; make a collection there with `qindex index`")
    if not path.is_file():
        raise FormatError(f"{folder} is not a collection: it has no {FILE_NAME}")
    with _connect(path) as connection:
        connection.execute("BEGIN")
        if not _is_finished(connection, path):
            raise FormatError(f"{folder} is not a collection yet: its first build was cut off; build it again")
        yield connection


@contextmanager
def writing(folder: Path) -> Iterator[sqlite3.Connection]:
    """The one write transaction of a build. It is committed at the end of the block, and rolled back on an error."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    with _connect(path, create=True) as connection:
        try:
            connection.execute("PRAGMA busy_timeout = 0")  # another build would take too long to wait for
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA busy_timeout = {TIMEOUT_S * 1000}")
        except sqlite3.OperationalError as error:
            raise ValueError(f"{folder} cannot be written now ({error}): is another build running on it?") from error
        if not _is_finished(connection, path):
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        yield connection
        connection.execute("COMMIT")


@contextmanager
def _connect(path: Path, create: bool = False) -> Iterator[sqlite3.Connection]:
    # Opened for writing even to read: what a killed writer left has to be rolled back first.
    address = f"{path.resolve().as_uri()}?mode={'rwc' if create else 'rw'}"
    try:
        with closing(sqlite3.connect(address, TIMEOUT_S, isolation_level=None, uri=True)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        # An OperationalError (a full disk, a folder that cannot be written) says nothing about the content.
        way_out = "" if isinstance(error, sqlite3.OperationalError) else "; remove the folder and build it again"
        raise FormatError(f"catalogue {path} cannot be used: {error}{way_out}") from error


def _is_finished(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether a build was ever committed. Raises FormatError for a foreign or a newer database."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application == version == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
        return False
    if application != APPLICATION_ID:
        raise FormatError(f"{path} is a database of another program, not the catalogue of a collection")
    if version != SCHEMA_VERSION:
        raise FormatError(
            f"{path} has schema version {version}, this qindex reads version {SCHEMA_VERSION}; "
            "upgrade qindex, or build in another folder"
        )
    size = connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0]
    if path.stat().st_size < size:  # SQLite would read zeros beyond the end
        raise FormatError(
            f"catalogue {path} is truncated: it has {path.stat().st_size} bytes of {size}; "
            "remove the folder and build it again"
        )
    return True


def active_segment(connection: sqlite3.Connection) -> str | None:
    """The file name of the index segment, None before the first build is committed, or where it is no such name."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'segment'").fetchone()
    # Files are opened and removed by this name, so it must not lead out of the folder.
    return row[0] if row and SEGMENT_NAME.fullmatch(row[0]) else None


def read_meta(connection: sqlite3.Connection) -> Meta:
    """The meta table, checked. Raises FormatError."""
    values = dict(connection.execute("SELECT key, value FROM meta"))
    try:
        meta = Meta(**{**values, **{key: int(values[key]) for key in ("dim", "passages", "sources")}})
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the catalogue's meta table must have {', '.join(Meta._fields)}, got {values}") from error
    if meta.segment != active_segment(connection):
        raise FormatError(f"the catalogue must name a segment of its own folder, got {meta.segment!r}")
    return meta


def replace_all(
    connection: sqlite3.Connection, meta: Meta, sources: Mapping[str, int], passages: Iterable[Row]
) -> None:
    """Put new contents in the place of all that is there. `sources`: path -> size; their ids count from 0."""
    for table in ("meta", "passages", "sources"):
        connection.execute(f"DELETE FROM {table}")
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta._asdict().items())
    rows = ((number, path, size) for number, (path, size) in enumerate(sources.items()))
    connection.executemany("INSERT INTO sources VALUES (?, ?, ?)", rows)
    connection.executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?)", passages)


def read_texts(connection: sqlite3.Connection) -> list[str]:
    """The texts of all passages, in the order of their ids."""
    return [text for (text,) in connection.execute("SELECT text FROM passages ORDER BY id")]


def read_passages(connection: sqlite3.Connection, ids: Iterable[int]) -> Iterator[tuple[str, Row]]:
    """The chosen passages, each with the path of its source. Raises FormatError for an id that is not there."""
    query = "SELECT sources.path, passages.* FROM passages JOIN sources ON sources.id = source WHERE passages.id = ?"
    for id in ids:
        row = connection.execute(query, (id,)).fetchone()
        if row is None:
            raise FormatError(f"the index holds passage {id}, but the catalogue does not; build the collection again")
        yield row[0], Row(*row[1:])
