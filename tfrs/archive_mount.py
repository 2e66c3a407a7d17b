"""The index of the archives of a data set, and what of them is unpacked for a build.

A tar.gz or tar.zst can only be read from its beginning, while records are written in shuffled order from several archives at
once. It is therefore decompressed once, in the pass that lists it, into a plain tar in the spool folder; `release` deletes that
after the build and keeps the index, from which a repeated command sees that nothing is to be done. An interrupted build goes on
with the archive at which it stopped. Builds of the same archives share both; any other is refused as long as they are in use.
"""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import zlib
from pathlib import Path
from typing import IO

from tfrs import archive, archive_members
from tfrs.archive import INDEX
from tfrs.errors import UserError
from tfrs.locks import locked

SPOOL = ".archives"
# Locks beside the index: for one process at a time, to change what is there; shared by all that read from it.
_CHANGING, _READING = "lock", "lock-reading"
_SAMPLE = 1 << 24  # bytes of a tar.gz from which its unpacked size is guessed: it does not say it


def mount(dataset, root: Path, spool: Path, *, unpack: bool = True) -> Path:
    """What a data set is to be read from: `root`, or an index of the archive that it is, or of those that it holds.

    Args:
        dataset: Says where members belong (`Dataset.member`), and which folders a root with unpacked data has.
        spool: Folder for the index, and for what is in a tar.gz.
        unpack: Whether pixels will be read. Without, a tar.gz that the index knows stays as it is.

    Raises:
        UserError: An archive is damaged or has no patch of the data set, there is no space for what is in it, or another build
            reads others through the same folder.
    """
    if root.is_dir():
        if not dataset.folders or any((root / name).exists() for name in dataset.folders):
            return root
        archives = sorted(path for path in root.iterdir() if path.name.endswith(archive_members.SUFFIXES) and path.is_file())
    else:
        archives = [root] if root.name.endswith(archive_members.SUFFIXES) and root.is_file() else []
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
        db.executescript(archive.SCHEMA)
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
            source: spool.absolute() / f"{Path(source).name}.spool.tar"
            if source.endswith(archive_members.COMPRESSED)
            else Path(source)
            for source in stamps
        }
        todo = [source for source in stamps if source not in known or (unpack and not plain[source].exists())]
        _check_space([source for source in todo if source.endswith(archive_members.COMPRESSED)], spool)
        for source in todo:
            with db:  # one transaction: an archive is listed as a whole or not at all
                db.execute("BEGIN IMMEDIATE")
                row = (source, stamps[source], str(plain[source]))
                db.execute("INSERT OR IGNORE INTO archives (source, stamp, path) VALUES (?, ?, ?)", row)
                ((number,),) = db.execute("SELECT number FROM archives WHERE source = ?", (source,))
                members = (
                    (dataset.member(name), number, *place) for name, *place in archive_members.scan(source, plain[source])
                )
                db.executemany(archive.INSERT, (member for member in members if member[0]))
        if not db.execute("SELECT 1 FROM members LIMIT 1").fetchone():
            _delete_unpacked(index.parent)
            raise UserError(f"{', '.join(stamps)}: no {dataset.name} patch found; expected {dataset.layout}")
    archive.forget()
    return index


def _check_space(archives: list[str], spool: Path) -> None:
    needed = 0.0
    for source in archives:
        with open(source, "rb") as file, archive_members.decompressed(file) as content:
            try:
                size = len(content.read(_SAMPLE))
            except (OSError, EOFError, zlib.error) as error:
                raise archive_members.damaged(source, error) from error
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
