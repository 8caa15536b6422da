import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pyarrow as pa
import pytest

from adversarial_mlm.data import CorpusError, load_corpus, prepare_corpus
from adversarial_mlm.data.text_files import is_compressed, read_lines, without_compression
from adversarial_mlm.downstream.reading import read_records

TEXT = b"one\r\ntwo\nthree\rfour"


def arrow(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.fasta")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


COMPRESSIONS = {
    "gzip": gzip.compress,
    "gzip twice": lambda data: gzip.compress(gzip.compress(data)),
    "bzip2": bz2.compress,
    "bzip2 in two streams": lambda data: bz2.compress(data[:7]) + bz2.compress(data[7:]),
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": lambda data: arrow(data, "zstd"),
    "zstd in two frames": lambda data: arrow(data[:7], "zstd") + arrow(data[7:], "zstd"),
    "lz4": lambda data: arrow(data, "lz4"),
    "zip": lambda data: zipped({"a/": b"", "a/a.fasta": data, "__MACOSX/a/._a.fasta": b"\0"}),
    "zip in gzip": lambda data: gzip.compress(zipped({"a.fasta": data})),
    "none": bytes,
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_compressed_file_is_known_by_its_first_bytes_under_any_name(tmp_path, compression, mark):
    path = str(tmp_path / "a.fasta")
    (tmp_path / "a.fasta").write_bytes(COMPRESSIONS[compression](mark + TEXT))
    assert list(read_lines(path)) == ["one\n", "two\n", "three\n", "four"]
    assert list(read_lines(path, newline="")) == ["one\r\n", "two\n", "three\r", "four"]
    assert is_compressed(path) is (compression != "none")


LONG = b"".join(b">%d\n%d\n" % (number, number**40) for number in range(3000))
# the bytes of a file, what the message says besides its name
REFUSED = {
    "empty": (b"", "the file is empty"),
    "byte order mark alone": (b"\xef\xbb\xbf", "the file is empty"),
    "empty in gzip": (gzip.compress(b""), "the file is empty"),
    "compressed too often": (gzip.compress(b"a", 0) * 1, "compressed more than 4 times"),
    "zip of two": (zipped({"a": b"1", "b": b"2"}), "is a zip archive of 2 files .'a', .*unpack it"),
    "zip of folders": (zipped({"a/": b""}), "is a zip archive of 0 files"),
    "Excel workbook": (zipped({"[Content_Types].xml": b"", "xl/workbook.xml": b""}), "Excel .*save the table as CSV"),
    "tar": (tarred(TEXT), "is a tar archive: unpack it"),
    "tar.gz": (gzip.compress(tarred(TEXT)), "is a tar archive: unpack it"),
    "empty zip": (zipped({}), "binary, not text: it is an empty zip archive"),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c\0\4", "it is a 7-Zip archive"),
    "RAR": (b"Rar!\x1a\7\1\0", "it is a RAR archive"),
    "Parquet": (b"PAR1\x15\0", "it is a Parquet file"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\0", "it is an old Excel or Word document"),
    "unknown": (b"\0\1\2\3", "the file is binary, not text."),
    "zeros": (b"\0" * 100, "the file is binary, not text."),
    "UTF-16": ("one\n".encode("utf-16"), "UTF-16 or UTF-32 text; save it as UTF-8"),
    "UTF-16 without a mark": ("one\n".encode("utf-16-le"), "UTF-16 or UTF-32 text"),
    "UTF-16 in big-endian order": ("one\n".encode("utf-16-be"), "UTF-16 or UTF-32 text"),
    "UTF-32 without a mark": ("one\n".encode("utf-32-le"), "UTF-16 or UTF-32 text"),
    "incomplete bzip2": (bz2.compress(LONG)[:-30], "the compressed file ends too early"),
    "incomplete xz": (lzma.compress(LONG)[:-30], "the compressed file ends too early"),
    "incomplete zstd": (arrow(LONG, "zstd")[:-30], "the compressed file ends too early"),
    "incomplete lz4": (arrow(LONG, "lz4")[:-30], "the compressed file ends too early"),
    "incomplete zip": (zipped({"a": LONG})[:-30], "the compressed file is damaged"),
    "damaged xz": (lzma.compress(LONG)[:40] + b"damage" + lzma.compress(LONG)[46:], "the compressed file is damaged"),
    "damaged bzip2": (bz2.compress(LONG)[:40] + b"damage" + bz2.compress(LONG)[46:], "could not be read"),
}
for _ in range(4):
    REFUSED["compressed too often"] = (
        gzip.compress(REFUSED["compressed too often"][0]),
        "compressed more than 4 times",
    )


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_named_for_what_they_are(tmp_path, case):
    data, message = REFUSED[case]
    (tmp_path / "a.fasta").write_bytes(data)
    with pytest.raises(CorpusError, match=f"a.fasta: .*{message}") as caught:
        list(read_lines(str(tmp_path / "a.fasta")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (gzip.compress(b"PAR1"), "is not a Parquet file, but a compressed file: unpack it"),
        (zipped({"a.parquet": b"PAR1"}), "is not a Parquet file, but a compressed file"),
        (b"ARROW1\0\0", "is not a Parquet file: it is an Arrow file"),
        (b"id,sequence\n", "is not a Parquet file: it is text"),
        (b"\0\1", "is not a Parquet file: it is binary"),
    ],
    ids=["empty", "gzip", "zip", "Arrow", "text", "binary"],  # gzip writes the time, and ids have to stay the same
)
def test_files_with_the_name_of_parquet_are_named_for_what_they_are(tmp_path, data, message):
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=f"a.parquet: {message}"):
        load_corpus(str(path), cache_dir=str(tmp_path))
    with pytest.raises(CorpusError, match=f"a.parquet: {message}"):
        list(read_records(path, ["sequence"]))


def test_a_zip_archive_with_a_password_is_refused(tmp_path):
    data = bytearray(zipped({"a": TEXT}))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # set the flag of encryption
        data[data.index(signature) + flags] |= 1
    (tmp_path / "a.fasta").write_bytes(data)
    with pytest.raises(CorpusError, match=r"a\.fasta: .*zip archive with a password"):
        list(read_lines(str(tmp_path / "a.fasta")))


@pytest.mark.parametrize(
    "name", ["a.fasta.bz2", "a.FASTA.XZ", "a.fasta.zst", "a.fasta.zip", "a.fasta.gz.gz", "a.fa.lz4"]
)
def test_the_endings_of_compressed_files_are_known(tmp_path, name):
    (tmp_path / name).write_bytes(bz2.compress(b">a\nMKVLAAGIVG\n"))
    assert load_corpus(str(tmp_path / name), cache_dir=str(tmp_path)).dataset["sequence"][:] == ["MKVLAAGIVG"]
    assert without_compression(name) in ("a.fasta", "a.fa")


def test_a_compressed_file_is_prepared_as_one_part(tmp_path):
    (tmp_path / "a.fasta").write_bytes(lzma.compress(b">a\nMKVLAAGIVG\n>b\nMKVLAAGIVC\n"))
    manifest = prepare_corpus(str(tmp_path / "a.fasta"), str(tmp_path / "out"), workers=1, part_bytes=10)
    assert [part["records"] for part in manifest["parts"]] == [2]
