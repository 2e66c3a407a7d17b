"""Data sets in the archives in which they are published (zip, tar, tar.gz, tar.zst), read as if they were unpacked.

An index, one SQLite file, knows archive, offset and size of every member. It stands for the folder that the archives would
unpack to: `members.sqlite/ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif` is the path of a member, and reading it is one
read at its offset, as of a file and in any order. Memory does not grow with the number of members. Builds of the same archives
share it; another build is refused as long as it is in use.

A tar.gz or tar.zst can only be read from its beginning, while records are written in shuffled order from several archives at
once. It is therefore decompressed once, in the pass that lists it, into a plain tar in the spool folder; `release` deletes that
after the build and keeps the index, from which a repeated command sees that nothing is to be done. An interrupted build goes on
with the archive at which it stopped.
"""

import contextlib
import fcntl
import functools
import gzip
import itertools
import os
import shutil
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tfrs.errors import UserError
from tfrs.storage import locked, replacing

INDEX, SPOOL = "members.sqlite", ".archives"
# Locks beside the index: for one process at a time, to change what is there; shared by all that read from it.
_CHANGING, _READING = "lock", "lock-reading"
SUFFIXES, _COMPRESSED = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst"), (".gz", ".tgz", ".zst")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS archives (number INTEGER PRIMARY KEY, source TEXT UNIQUE, stamp TEXT, path TEXT);
CREATE TABLE IF NOT EXISTS members
    (name TEXT PRIMARY KEY, archive INTEGER, offset INTEGER, size INTEGER, deflated INTEGER, crc INTEGER) WITHOUT ROWID;
"""
_INSERT = "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?)"
_SAMPLE = 1 << 24  # bytes of a tar.gz from which its unpacked size is guessed: it does not say it
_CHUNK = 1 << 20


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


def mount(dataset, root: Path, spool: Path, *, unpack: bool = True) -> Path:
    """What a data set is to be read from: `root`, or an index of the archive that it is, or of those that it holds.

    Args:
        dataset: Says where members belong (`Dataset.member`), and which folders a root with unpacked data has.
        spool: Folder for the index, and for what is in a tar.gz.
        unpack: Whether pixels will be read. Without, a tar.gz that the index knows stays as it is.

    Raises:
        UserError: An archive is damaged, or there is no space for what is in it.
    """
    if root.is_dir():
        if not dataset.folders or any((root / name).exists() for name in dataset.folders):
            return root
        archives = sorted(path for path in root.iterdir() if path.name.endswith(SUFFIXES) and path.is_file())
    else:
        archives = [root] if root.name.endswith(SUFFIXES) and root.is_file() else []
    if not archives:
        return root
    try:
        spool.mkdir(parents=True, exist_ok=True)
        _leave(spool.absolute())
        if not _writable(spool):  # somebody else's: what is there is used
            return _mount(dataset, archives, spool, unpack)
        with open(spool / _CHANGING, "a") as changing:
            locked(changing, fcntl.LOCK_EX)  # of several tasks, one unpacks and the others wait for it
            index = _mount(dataset, archives, spool, unpack)
            _reading[spool.absolute()] = reading = open(spool / _READING, "a+")  # noqa: SIM115
            locked(reading, fcntl.LOCK_SH)  # until `release`, or the end of the process
            return index
    except sqlite3.Error as error:
        raise UserError(f"{spool / INDEX}: {error}; delete the file, it will be made again") from error
    except OSError as error:
        raise UserError(f"{error.filename or spool}: {error.strerror or error}; --spool names another folder") from error


def release(root: Path) -> None:
    """Delete what was unpacked for a build, once it is done; the last of several that read from it does."""
    if root.name != INDEX or not _writable(root.parent):
        return
    _leave(root.parent)
    with open(root.parent / _CHANGING, "a") as changing:
        if locked(changing, fcntl.LOCK_EX | fcntl.LOCK_NB) and not _in_use(root.parent):
            _delete_unpacked(root.parent)


# Folder -> the open and locked file by which this process says that it reads from there.
_reading: dict[Path, IO] = {}


def _leave(spool: Path) -> None:
    if reading := _reading.pop(spool, None):
        reading.close()


def _writable(spool: Path) -> bool:
    return os.access(spool, os.W_OK, effective_ids=True)


def _in_use(spool: Path) -> bool:
    with open(spool / _READING, "a") as file:
        return not locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _delete_unpacked(spool: Path) -> None:
    for path in spool.glob("*.spool.tar"):
        path.unlink()


def _mount(dataset, archives: list[Path], spool: Path, unpack: bool) -> Path:
    index = spool.absolute() / INDEX
    # Of what is in an archive, the index has what belongs to the data set.
    stamps = {str(path.absolute()): f"{dataset.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in archives}
    with contextlib.closing(sqlite3.connect(index)) as db:
        db.executescript(_SCHEMA)
        known = dict(db.execute("SELECT source, stamp FROM archives"))
        if known and known != stamps and _in_use(index.parent):
            raise UserError(
                f"{spool}: in use by another build, which reads {', '.join(sorted(known)[:3])}; wait until it has ended, or "
                "name another folder with --spool"
            )
        if any(stamps.get(source) != stamp for source, stamp in known.items()):  # other archives than those of the index
            db.executescript("DELETE FROM archives; DELETE FROM members;")
            _delete_unpacked(index.parent)
            known = {}
        plain = {
            source: spool.absolute() / f"{Path(source).name}.spool.tar" if source.endswith(_COMPRESSED) else Path(source)
            for source in stamps
        }
        todo = [source for source in stamps if source not in known or (unpack and not plain[source].exists())]
        _check_space([source for source in todo if source.endswith(_COMPRESSED)], spool)
        for source in todo:
            with db:  # one transaction: an archive is listed as a whole or not at all
                db.execute("BEGIN IMMEDIATE")
                row = (source, stamps[source], str(plain[source]))
                db.execute("INSERT OR IGNORE INTO archives (source, stamp, path) VALUES (?, ?, ?)", row)
                ((number,),) = db.execute("SELECT number FROM archives WHERE source = ?", (source,))
                members = ((dataset.member(name), number, *place) for name, *place in _scan(source, plain[source]))
                db.executemany(_INSERT, (member for member in members if member[0]))
        if not db.execute("SELECT 1 FROM members LIMIT 1").fetchone():
            _delete_unpacked(index.parent)
            raise UserError(f"{', '.join(stamps)}: no {dataset.name} patch found; expected {dataset.layout}")
    _index.cache_clear()
    _file_above.cache_clear()
    return index


def _check_space(archives: list[str], spool: Path) -> None:
    needed = 0.0
    for source in archives:
        with open(source, "rb") as file, _decompressed(file) as content:
            try:
                size = len(content.read(_SAMPLE))
            except (OSError, EOFError, zlib.error) as error:
                raise _damaged(source, error) from error
            needed += os.path.getsize(source) * size / file.tell()
    free = shutil.disk_usage(spool).free
    if needed:
        print(
            f"unpacking {len(archives)} archives into {spool} for the time of the build: about {needed / 1e9:.1f} GB",
            flush=True,
        )
    if needed > free:
        raise UserError(
            f"{spool}: {free / 1e9:.1f} GB are free, but what is in {', '.join(archives)} takes about {needed / 1e9:.1f} GB "
            "while the build runs; give a folder with more space with --spool"
        )


def _decompressed(file):
    """What is in a tar.gz or tar.zst, as a stream."""
    if not file.name.endswith(".zst"):
        return gzip.open(file)
    import pyarrow

    return pyarrow.CompressedInputStream(file, "zstd")


def _damaged(source, error) -> UserError:
    return UserError(f"{source}: cannot be read as an archive ({error}); is it complete? Download it again")


def _scan(source: str, plain: Path) -> Iterator[tuple[str, int, int, bool, int | None]]:
    """Name, offset, size, whether deflated, and CRC (where known) of every file in an archive; writes `plain` of a tar.gz."""
    try:
        if source.endswith(".zip"):
            yield from _scan_zip(source)
        elif str(plain) == source:
            with tarfile.open(source, "r:") as tar:
                yield from _members(tar)
            _check_end(source, tar.offset)
        else:
            with (
                open(source, "rb") as file,
                _decompressed(file) as content,
                replacing(plain) as temporary,
                open(temporary, "wb") as target,
            ):
                tee = _Tee(content, target)
                with tarfile.open(fileobj=tee, mode="r|", bufsize=_CHUNK) as tar:
                    yield from _members(tar)
                while tee.read(_CHUNK):  # to the end, where gzip keeps its checksum
                    pass
                target.flush()
                _check_end(temporary, tar.offset)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:  # of the disk, not of what is on it
            raise
        raise _damaged(source, error) from error


def _check_end(path, offset: int) -> None:
    """See that a tar ends where its last member does: tarfile takes a cut or damaged header for the end, too."""
    with open(path, "rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError(f"no end mark at byte {offset:,}")


class _Tee:
    """A stream that writes down what is read from it."""

    def __init__(self, source, target):
        self.source, self.target = source, target

    def read(self, size: int) -> bytes:
        content = self.source.read(size)
        self.target.write(content)
        return content


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, int, int, bool, None]]:
    while (member := tar.next()) is not None:
        if member.isreg() and not member.issparse():
            yield member.name.removeprefix("./"), member.offset_data, member.size, False, None
        tar.members.clear()  # or it would keep millions of them


def _scan_zip(source: str) -> Iterator[tuple[str, int, int, bool, int]]:
    with zipfile.ZipFile(source) as archive, open(source, "rb") as file:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                raise UserError(f"{source}: {member.filename} is encrypted or compressed in an unusual way; unpack the archive")
            file.seek(member.header_offset + 26)  # the local header may have other extra fields than the directory
            offset = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            deflated = member.compress_type == zipfile.ZIP_DEFLATED
            yield member.filename, offset, member.compress_size, deflated, member.CRC


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
    db.executescript(_SCHEMA)
    if mount.endswith((".zip", ".tar")):
        db.executemany(_INSERT, ((name, 0, *place) for name, *place in _scan(mount, Path(mount))))
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
