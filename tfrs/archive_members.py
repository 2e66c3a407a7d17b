"""What is in an archive and where: name, offset and size of every member of a zip, tar, tar.gz or tar.zst."""

import gzip
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tfrs.errors import UserError
from tfrs.storage import replacing

SUFFIXES, COMPRESSED = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst"), (".gz", ".tgz", ".zst")
_CHUNK = 1 << 20


def scan(source: str, plain: Path) -> Iterator[tuple[str, int, int, bool, int | None]]:
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
                decompressed(file) as content,
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
        raise damaged(source, error) from error


def decompressed(file):
    """What is in a tar.gz or tar.zst, as a stream."""
    if not file.name.endswith(".zst"):
        return gzip.open(file)
    import pyarrow

    return pyarrow.CompressedInputStream(file, "zstd")


def damaged(source, error) -> UserError:
    return UserError(f"{source}: cannot be read as an archive ({error}); is it complete? Download it again")


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
