import gzip
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import load_from_disk

from adversarial_mlm.cli.main import main
from adversarial_mlm.data import CorpusError, load_corpus, prepare, prepare_corpus


@pytest.fixture
def fasta(tmp_path, write_records, random_records, fasta_text):
    """Records of every kind, records without ids, one long record, and one that is left out, in two files."""
    write_records(tmp_path / "a.fasta")
    text = fasta_text(random_records(60)) + ">\nMKVLAAGIVGLCAK\n" * 3 + ">long\n" + "MKVLAAGIVG\n" * 500
    (tmp_path / "a.fasta").write_text((tmp_path / "a.fasta").read_text() + text + ">lost\n\n")
    (tmp_path / "b.fasta").write_text(fasta_text(random_records(40, seed=1, prefix="b")))
    return str(tmp_path / "?.fasta")


@pytest.mark.parametrize("part_bytes", [1, 300, 1 << 20])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_prepared_folder_gives_the_rows_and_counts_of_its_files(
    tmp_path, fasta, rows_of, caplog, part_bytes, line_end
):
    for path in tmp_path.glob("?.fasta"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_text().replace("\n", line_end).encode())
    with caplog.at_level(logging.WARNING, logger="adversarial_mlm"):
        direct = load_corpus(fasta, cache_dir=str(tmp_path / "cache"))
        said = [record.getMessage() for record in caplog.records]
        caplog.clear()
        manifest = prepare_corpus(fasta, str(tmp_path / "prepared"), workers=1, part_bytes=part_bytes)
        assert [record.getMessage() for record in caplog.records] == said != []
    prepared = load_corpus(str(tmp_path / "prepared"), cache_dir=str(tmp_path / "cache"))
    assert rows_of(prepared.dataset) == rows_of(direct.dataset) and prepared.counts == direct.counts
    assert prepared.dataset.features == direct.dataset.features
    assert prepared.dataset.__getitems__([3, 90, 7]) == direct.dataset.__getitems__([3, 90, 7])
    assert manifest["residues"] == sum(direct.dataset["length"]) and manifest["counts"] == direct.counts.as_dict()
    many = {1: 110, 300: 15, 1 << 20: 2}[part_bytes]
    assert len(manifest["parts"]) >= (2 if line_end == "\r" and part_bytes == 1 << 20 else many)
    files = {part["file"] for part in manifest["parts"]} | {"manifest.json", ".lock"}
    assert {path.name for path in (tmp_path / "prepared").iterdir()} == files


def test_a_compressed_file_is_one_part(tmp_path, rows_of, random_records, fasta_text):
    for name in "ab":
        text = fasta_text(random_records(50, prefix=name)).encode()
        (tmp_path / f"{name}.fasta.gz").write_bytes(gzip.compress(text))
    source = [str(tmp_path / "a.fasta.gz"), str(tmp_path / "b.fasta.gz")]
    manifest = prepare_corpus(source, str(tmp_path / "prepared"), workers=1, part_bytes=100)
    assert [part["records"] for part in manifest["parts"]] == [50, 50]
    prepared = load_corpus(str(tmp_path / "prepared"), cache_dir=str(tmp_path))
    assert rows_of(prepared.dataset) == rows_of(load_corpus(source, cache_dir=str(tmp_path)).dataset)


def test_errors_in_the_middle_of_a_file_tell_the_record_and_line_of_the_file(tmp_path, random_records, fasta_text):
    path = tmp_path / "a.fasta"
    path.write_text(fasta_text(random_records(150)) + ">bad\nMKV>worse\n" + fasta_text(random_records(50)))
    messages = []
    for read in (
        lambda: load_corpus(str(path), cache_dir=str(tmp_path)),
        lambda: prepare_corpus(str(path), str(tmp_path / "prepared"), workers=1, part_bytes=500),
    ):
        with pytest.raises(CorpusError, match="record 151, which ends at line 302") as caught:
            read()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_preparation_that_was_stopped_goes_on_where_it_was(tmp_path, fasta, rows_of, monkeypatch):
    folder, clean, cleaned = tmp_path / "prepared", prepare.clean_rows, []

    def stops(rows, *args):
        cleaned.append(1)
        if len(cleaned) == 6:
            raise KeyboardInterrupt
        return clean(rows, *args)

    monkeypatch.setattr(prepare, "clean_rows", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(fasta, str(folder), workers=1, part_bytes=300)
    with pytest.raises(CorpusError, match="not complete: repeat adv-mlm prepare to continue"):
        load_corpus(str(folder), cache_dir=str(tmp_path))
    (folder / "part-00001.arrow").write_bytes(b"half")  # is made anew
    manifest = prepare_corpus(fasta, str(folder), workers=1, part_bytes=300)
    assert len(cleaned) == 6 + len(manifest["parts"]) - 4
    prepared = load_corpus(str(folder), cache_dir=str(tmp_path)).dataset
    assert rows_of(prepared) == rows_of(load_corpus(fasta, cache_dir=str(tmp_path)).dataset)
    assert prepare_corpus(fasta, str(folder)) == manifest and len(cleaned) == 2 + len(manifest["parts"])


@pytest.mark.slow
def test_a_stopped_and_a_killed_preparation_keep_their_parts(tmp_path, random_records, fasta_text, rows_of):
    records = [(name, sequence * 20) for name, sequence in random_records(20_000)]
    (tmp_path / "a.fasta").write_text(fasta_text(records))
    folder = tmp_path / "prepared"
    command = [sys.executable, "-m", "adversarial_mlm", "prepare", str(tmp_path / "a.fasta"), "--workers", "2"]
    command += ["--output_dir", str(folder), "--part_megabytes", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for number, parts in ((signal.SIGINT, 1), (signal.SIGKILL, 2)):  # to all processes, as a terminal does
        process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and len(list(folder.glob("part-*.json"))) < parts:
            time.sleep(0.002)
        os.killpg(process.pid, number)
        said = process.communicate()[1]
        if number == signal.SIGINT:
            sentence = "adv-mlm: stopped by SIGINT; complete parts are kept: start the same command to continue\n"
            assert (process.returncode, said) == (130, sentence)
    assert not (folder / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("part-*.json")}
    finished = {path.with_suffix(".arrow"): path.with_suffix(".arrow").stat().st_mtime_ns for path in kept}
    assert finished
    assert subprocess.run(command, env=environment).returncode == 0
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    left = {path.name for path in folder.iterdir() if path.suffix != ".arrow"}
    assert left == {"manifest.json", ".lock"}
    prepared = load_corpus(str(folder), cache_dir=str(tmp_path)).dataset
    assert [(row["id"], row["sequence"]) for row in prepared] == records


def test_wrong_input_ends_in_one_sentence(tmp_path, fasta, capsys, write_records):
    folder = str(tmp_path / "prepared")
    prepare_corpus(fasta, folder, workers=1)
    table = write_records(tmp_path / "a.parquet", "parquet")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "genes.fa").write_text(">gene\nATGGCNTTAGCATACG\n")
    for words, message in (
        (
            [fasta, "--output_dir", folder, "--min_length", "20"],
            "manifest.json: the folder contains a corpus of other",
        ),
        ([table, "--output_dir", str(tmp_path / "new")], "a.parquet: only FASTA can be prepared"),
        ([fasta, "--output_dir", str(tmp_path / "other")], r"no preparation has written \(notes.txt\); they were not"),
        ([fasta, "--output_dir", str(tmp_path / "new"), "--workers", "0"], "workers must be 1 or more"),
        ([fasta, "--output_dir", str(tmp_path / "new"), "--part_megabytes", "0"], "part_megabytes must be at least 1"),
        ([fasta, "--output_dir", str(tmp_path / "new"), "--min_length", "-1"], "min_length must be 0 or more"),
        ([str(tmp_path / "genes.fa"), "--output_dir", str(tmp_path / "new")], "genes.fa: .* to be nucleotides"),
        (["nowhere.fa", "--output_dir", str(tmp_path / "new")], "nowhere.fa: there is no such file"),
        ([fasta, "--output_dir", str(tmp_path / "a.parquet"), "--workers", "1"], "a.parquet is not a folder: choose"),
    ):
        assert main(["prepare", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("adv-mlm: ")
        with pytest.raises(CorpusError, match=message):
            raise CorpusError(line)
    assert main(["prepare", fasta, "--output_dir", folder]) == 0  # nothing to do
    assert "kept" in capsys.readouterr().out


def test_a_damaged_folder_is_refused_by_the_name_of_the_file(tmp_path, fasta):
    folder, cache = tmp_path / "prepared", str(tmp_path / "cache")
    prepare_corpus(fasta, str(folder), workers=1, part_bytes=1000)

    def refused(message, **options):
        with pytest.raises(CorpusError, match=message):
            load_corpus(str(folder), cache_dir=cache, **options)

    table = folder / "part-00001.arrow"
    whole = table.read_bytes()
    table.unlink()
    refused("part-00001.arrow: a table of the prepared corpus is missing")
    table.write_bytes(whole[:-8])
    refused(r"part-00001.arrow: the table has [\d,]+ bytes, but [\d,]+ were prepared")
    table.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    refused("part-00001.arrow: the table is damaged: its checksum")
    table.write_bytes(whole)
    assert len(load_corpus(str(folder), cache_dir=cache).dataset) > 100
    refused("it was prepared with min_length=10, but min_length=30 is set", min_length=30)
    refused("it was prepared with allow_nucleotides=False", allow_nucleotides=True)
    refused("remove streaming", streaming=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    for changed, message in (
        ({"cleaning_version": 1}, "cleaning_version is 1, but this version reads"),
        ({"format_version": 9}, "format_version is 9"),
        ({"counts": {"cows": 3}}, "the manifest is damaged"),
        ({"parts": 3}, "the manifest is damaged"),
    ):
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changed}))
        refused(message)
    (folder / "manifest.json").write_text("{")
    refused("manifest.json: could not be read as JSON")


def test_checksums_are_compared_once(tmp_path, fasta, monkeypatch):
    folder, cache = tmp_path / "prepared", str(tmp_path / "cache")
    prepare_corpus(fasta, str(folder), workers=1)
    load_corpus(str(folder), cache_dir=cache)
    monkeypatch.setattr("adversarial_mlm.data.prepared.file_checksum", lambda path: pytest.fail("read again"))
    load_corpus(str(folder), cache_dir=cache)
    os.utime(folder / "part-00000.arrow", ns=(0, 0))
    with pytest.raises(pytest.fail.Exception, match="read again"):
        load_corpus(str(folder), cache_dir=cache)


def test_a_folder_of_datasets_with_a_file_of_that_name_is_still_one(tmp_path, write_records):
    folder = write_records(tmp_path / "folder", "folder")
    Path(folder, "manifest.json").write_text('{"name": "an extension"}')
    assert len(load_corpus(folder, cache_dir=str(tmp_path)).dataset) == 7 < len(load_from_disk(folder))
