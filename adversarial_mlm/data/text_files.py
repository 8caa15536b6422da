"""Open text files, plain or compressed, and yield their lines. What is no such file raises [`CorpusError`]."""

import bz2
import gzip
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any, cast

import pyarrow as pa

from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CorpusError, one_line, shorten

COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz", ".lzma", ".zst", ".lz4", ".zip")
"""Endings of compressed files. What a file is depends on its first bytes alone: some tools keep the old name."""

# Errors of the layers for compression, text and Arrow, for a damaged or unreadable file.
READ_ERRORS = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError),
    pa.ArrowException,
)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")
_MOST_LAYERS = 4

# First bytes of binary files that people take for text files.
_BINARY_FILES = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x1f\x9d": "compressed by compress (.Z)",
    b"PK\x05\x06": "an empty zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word document",
    b"\x89HDF": "an HDF5 file",
    b"SQLite": "an SQLite database",
    b"%PDF": "a PDF document",
}


class _ByteRange(io.RawIOBase):
    """The bytes of a file from `start` to `stop`."""

    def __init__(self, path: str, start: int, stop: int):
        self._file, self._left = open(path, "rb", buffering=0), stop - start
        self._file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        read = self._file.readinto(memoryview(buffer)[: self._left])
        self._left -= read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()


def without_compression(name: str) -> str:
    """Return the name of a file in lower case, without the endings of compressed files."""
    name = name.lower()
    while name.endswith(COMPRESSED_ENDINGS):
        name = os.path.splitext(name)[0]
    return name


def is_compressed(path: str) -> bool:
    """Whether a file is compressed, so that it can only be read from its beginning."""
    with open(path, "rb") as file:
        return _opener(file.peek(1)) is not None


def read_lines(
    path: str, errors: str = "strict", newline: str | None = None, start: int = 0, stop: int | None = None
) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, plain or compressed (gzip, bzip2, xz, zstd, lz4, a zip archive of one file).

    `start` and `stop` limit the bytes of a plain file; `errors` and `newline` are passed to `open`.
    """
    number = 0
    try:
        with _opened(path, start, stop) as file:
            head = file.peek(1) if start == 0 else b">"  # a whole buffer, at least 8 KiB of a longer file
            _check_text(path, head)
            if head.startswith(_BYTE_ORDER_MARK):
                file.read(3)  # the byte order mark that some editors write
            text = io.TextIOWrapper(file, encoding="utf-8", errors=errors, newline=newline)
            for line in text:
                number += 1
                yield line
    except UnicodeDecodeError as error:
        # the decoder's buffer begins within the next line
        number += 1 + len(_LINE_END.findall(error.object[: error.start]))
        byte = f"0x{error.object[error.start]:02X}"
        raise CorpusError(f"{path}: line {number:,} is not UTF-8 text (byte {byte}); save it as UTF-8.") from error
    except READ_ERRORS as error:
        raise read_failure(path, error, after_line=number) from error


def read_failure(name: str, error: BaseException, after_line: int = 0) -> CorpusError:
    """Return the error for a file that could not be read to its end."""
    what, detail = "could not be read", getattr(error, "strerror", None) or one_line(error)
    if isinstance(error, EOFError) or (isinstance(error, OSError) and "Truncated compressed" in detail):
        what, detail = "the compressed file ends too early", "probably an incomplete copy or download: get it again"
    elif isinstance(error, gzip.BadGzipFile | zlib.error | lzma.LZMAError | zipfile.BadZipFile):
        what = "the compressed file is damaged"
    elif isinstance(error, UnicodeDecodeError):
        what, detail = "not UTF-8 text", error.reason
    where = f" after line {after_line:,}" if after_line else ""
    return CorpusError(f"{name}: {what}{where} ({detail}).")


@contextmanager
def _opened(path: str, start: int, stop: int | None) -> Iterator[io.BufferedReader]:
    """Open a part of a plain file, or a whole file through all layers of its compression."""
    with ExitStack() as layers:
        if stop is not None:
            yield layers.enter_context(io.BufferedReader(_ByteRange(path, start, stop)))
            return
        file = layers.enter_context(open(path, "rb"))
        for _ in range(_MOST_LAYERS):
            opener = _opener(file.peek(1))
            if opener is None:
                break
            file = layers.enter_context(opener(path, file))
        yield file


def _opener(head: bytes) -> Callable[[str, Any], Any] | None:
    """Return what opens a file with these first bytes; `None` for a file that is not compressed."""
    if head.startswith(b"\x1f\x8b") or head == b"\x1f":
        return lambda path, file: gzip.GzipFile(mode="rb", fileobj=file)
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return lambda path, file: bz2.BZ2File(file)
    if head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):  # .xz and .lzma
        return lambda path, file: lzma.LZMAFile(file)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return lambda path, file: io.BufferedReader(pa.CompressedInputStream(file, "zstd"))
    if head.startswith(b"\x04\x22\x4d\x18"):
        return lambda path, file: io.BufferedReader(pa.CompressedInputStream(file, "lz4"))
    return _only_member if head.startswith(b"PK\x03\x04") else None


def _only_member(path: str, file: IO[bytes]) -> io.BufferedReader:
    """Open the only file in a zip archive; folders and the notes of macOS do not count."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    if "[Content_Types].xml" in names:
        raise CorpusError(f"{path}: is an Excel or Word document: save the table as CSV.")
    members = [
        member for member in archive.infolist() if not member.is_dir() and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        listed = f" ({shorten(members[0].filename)}, ...)" if members else ""
        raise CorpusError(
            f"{path}: is a zip archive of {count(len(members), 'file')}{listed}: unpack it, and name the files "
            "to read."
        )
    if members[0].flag_bits & 1:
        raise CorpusError(f"{path}: is a zip archive with a password: unpack it, and name the file to read.")
    return io.BufferedReader(cast(io.RawIOBase, archive.open(members[0])))


def check_parquet(path: str) -> None:
    """Refuse a file that does not begin like Parquet, and say what it is.

    Raises:
        [`CorpusError`]: If so.
    """
    with open(path, "rb") as file:
        head = file.peek(1)
    if not head:
        raise CorpusError(f"{path}: the file is empty.")
    if _opener(head) is not None:
        raise CorpusError(f"{path}: is not a Parquet file, but a compressed file: unpack it, or correct its name.")
    if head[:4] != b"PAR1":
        what = _binary_file(head) or ("binary" if b"\0" in head else "text")
        raise CorpusError(f"{path}: is not a Parquet file: it is {what}. Correct the ending of its name.")


def _binary_file(head: bytes) -> str | None:
    return next((what for magic, what in _BINARY_FILES.items() if head.startswith(magic)), None)


def _check_text(path: str, head: bytes) -> None:
    """Refuse a file that is not UTF-8 text, by its first bytes, and say what it is."""
    if not head or head == _BYTE_ORDER_MARK:
        raise CorpusError(f"{path}: the file is empty.")
    every_other_is_zero = (head[:4:2] == b"\0\0") != (head[1:4:2] == b"\0\0")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or every_other_is_zero:
        raise CorpusError(f"{path}: the file is UTF-16 or UTF-32 text; save it as UTF-8.")
    if _opener(head) is not None:
        raise CorpusError(f"{path}: the file is compressed more than {_MOST_LAYERS} times: unpack it.")
    if head[257:262] == b"ustar":
        raise CorpusError(f"{path}: is a tar archive: unpack it, and name the files to read.")
    if b"\0" in head:
        what = _binary_file(head)
        raise CorpusError(f"{path}: the file is binary, not text{what and f': it is {what}' or ''}.")
