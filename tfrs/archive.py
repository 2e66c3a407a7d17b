"""Files of data sets, on disk or within the archives in which they are published (zip, tar), read as if those were unpacked.

An index, one SQLite file (see `archive_mount`), knows archive, offset and size of every member. It stands for the folder that
the archives would unpack to: `members.sqlite/ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif` is the path of a member, and
reading it is one read at its offset, as of a file and in any order. Memory does not grow with the number of members.
"""

import functools
import itertools
import os
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

from tfrs import archive_members

INDEX = "members.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS archives (number INTEGER PRIMARY KEY, source TEXT UNIQUE, stamp TEXT, path TEXT);
CREATE TABLE IF NOT EXISTS members
    (name TEXT PRIMARY KEY, archive INTEGER, offset INTEGER, size INTEGER, deflated INTEGER, crc INTEGER) WITHOUT ROWID;
"""
INSERT = "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?)"


def read_bytes(path: str | os.PathLike, largest: int | None = None) -> bytes | None:
    """Content of a file, or of a member of an archive.

    Args:
        largest: None is returned for a file of more bytes.

    Raises:
        OSError: It is missing, or damaged.
    """
    try:
        file = os.open(path, os.O_RDONLY)  # Python's file objects would double what opening a file of a small patch costs
        try:
            size = os.fstat(file).st_size
            return os.read(file, size) if largest is None or size <= largest else None
        finally:
            os.close(file)
    except NotADirectoryError:  # what looks like a folder of the path is a file
        mount, name = _split(path)
        return _read(mount, name, path)


def is_dir(folder: Path) -> bool:
    """Whether a folder is there, on disk or in archives."""
    return os.path.isdir(folder) or next(_below(folder), None) is not None


def names(folder: Path) -> Iterator[str]:
    """Names of files and folders in a folder, on disk or in archives; none where it is not there."""
    if os.path.isdir(folder):
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries)
    else:
        yield from (name for name, _ in itertools.groupby(path.partition("/")[0] for path in _below(folder)))


def walk(root: Path) -> Iterator[str]:
    """Relative paths of all files below a folder, on disk or in archives.

    Raises:
        OSError: A folder cannot be listed, other than a file system's own.
    """

    def fail(error: OSError) -> None:  # os.walk would leave the folder out
        if os.path.basename(error.filename) != "lost+found":
            raise error

    if not os.path.isdir(root):
        yield from _below(root)
        return
    for folder, _, files in os.walk(root, onerror=fail):
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        yield from (f"{relative}/{name}".removeprefix("./") for name in files)


def origin(root: Path) -> Path:
    """The folder in which the archives are, or `root` where it is no index of archives."""
    if root.name != INDEX or root.is_dir():
        return root
    ((source,),) = _index(str(root)).execute("SELECT source FROM archives LIMIT 1")
    return Path(source).parent


def forget() -> None:
    """Look at indexes and archives anew, after one has changed."""
    _index.cache_clear()
    _file_above.cache_clear()


def _split(path) -> tuple[str, str]:
    """The index or archive that a path leads into, and what follows it; empty where there is none."""
    mount = _file_above(os.path.dirname(path)) if not os.path.isfile(path) else str(path)
    return mount, str(path)[len(mount) + 1 :] if mount else ""


@functools.lru_cache(maxsize=4096)
def _file_above(folder: str) -> str:
    while folder and not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return folder if os.path.isfile(folder) else ""


@functools.lru_cache(maxsize=8)
def _index(mount: str) -> sqlite3.Connection:
    if mount.endswith(INDEX):
        return sqlite3.connect(f"{Path(mount).absolute().as_uri()}?mode=ro", uri=True)
    # An archive that is used as it is: its index is kept in memory.
    db = sqlite3.connect(":memory:")
    db.executescript(SCHEMA)
    if mount.endswith((".zip", ".tar")):
        db.executemany(INSERT, ((name, 0, *place) for name, *place in archive_members.scan(mount, Path(mount))))
        db.execute("INSERT INTO archives VALUES (0, ?, '', ?)", (mount, mount))
    return db


def _below(folder) -> Iterator[str]:
    """Paths of all members below a folder, relative to it, sorted."""
    mount, name = _split(folder)
    if mount:
        first, after = (f"{name}/", f"{name}0") if name else ("", "\U0010ffff")  # 0 comes next after /
        rows = _index(mount).execute("SELECT name FROM members WHERE name >= ? AND name < ? ORDER BY name", (first, after))
        yield from (path[len(first) :] for (path,) in rows)


def _read(mount: str, name: str, path) -> bytes:
    query = "SELECT path, offset, size, deflated, crc FROM members JOIN archives ON number = archive WHERE name = ?"
    found = _index(mount).execute(query, (name,)).fetchone() if mount else None
    if found is None:
        raise FileNotFoundError(2, "no such file", str(path))
    archive, offset, size, deflated, crc = found
    content = os.pread(_open(archive), size, offset)
    try:
        content = zlib.decompress(content, -zlib.MAX_WBITS) if deflated else content
    except zlib.error as error:
        raise OSError(f"{archive}: member is damaged ({error})") from error
    if (not deflated and len(content) != size) or (crc is not None and zlib.crc32(content) != crc):
        raise OSError(f"{archive}: member is damaged or incomplete")
    return content


@functools.lru_cache(maxsize=64)
def _open(archive: str) -> int:
    return os.open(archive, os.O_RDONLY)
