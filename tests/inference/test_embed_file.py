import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from adversarial_mlm import embed_proteins
from adversarial_mlm.inference import embed_file as module
from adversarial_mlm.inference import protein_embeddings
from adversarial_mlm.inference.embed_file import embed_file
from adversarial_mlm.inference.protein_embeddings import EmbeddingOptions
from adversarial_mlm.models.loading import load_backbone
from adversarial_mlm.utils import locks
from adversarial_mlm.utils.errors import AdversarialMLMError, CorpusError, MissingPackageError, WritingError
from tests.helpers.foreign_encoders import BUILDERS

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
LEFT_OUT = [[3, "empty", "empty sequence"], [9, "unknown", "no known residue"]]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    for saved in BUILDERS["bert"](folder):
        saved.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 40, 30)
    found = [(f"p{n % 7}", "".join(random.choice(list(RESIDUES), length))) for n, length in enumerate(lengths)]
    return [*found, ("long", RESIDUES * 5), ("é", "MKT")]


@pytest.fixture
def fasta(tmp_path, pairs) -> Path:
    records = [f">{identifier}\n{sequence}\n" for identifier, sequence in pairs]
    records.insert(2, ">empty\n\n")
    records.insert(8, ">unknown\nJJJ\n")
    (tmp_path / "a.fasta").write_text("".join(records))
    return tmp_path / "a.fasta"


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setitem(protein_embeddings._RESIDUES_PER_BLOCK, "cpu", 100)


def options(**given) -> EmbeddingOptions:
    return EmbeddingOptions(**{"max_length": 42, **given})


def read(path: Path) -> tuple[list[str], list[np.ndarray], list[int], list[int], dict]:
    """Ids, embeddings, lengths, windows and facts of a file of any format."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        columns = table.to_pydict()
        about = json.loads(table.schema.metadata[b"about"])
        embeddings = [np.array(embedding) for embedding in columns["embedding"]]
        return columns["id"], embeddings, columns["length"], columns["windows"], about
    if path.suffix == ".npz":
        arrays = dict(np.load(path))
        about = json.loads(str(arrays["about"]))
        ids = arrays["ids"].tolist()
    else:
        file = pytest.importorskip("h5py").File(path)
        arrays = {name: dataset[()] for name, dataset in file.items()}
        about = json.loads(arrays["about"])
        ids = [identifier.decode() for identifier in arrays["ids"]]
    rows = arrays["embeddings"]
    if "offsets" in arrays:
        rows = [rows[a:b] for a, b in zip(arrays["offsets"][:-1], arrays["offsets"][1:], strict=True)]
    return ids, list(rows), arrays["lengths"].tolist(), arrays["windows"].tolist(), about


@pytest.mark.parametrize("per_residue", [False, True])
@pytest.mark.parametrize("ending", ["parquet", "npz", "h5"])
def test_a_file_holds_every_protein_in_its_order_and_names_what_has_no_residues(
    model, pairs, fasta, tmp_path, small_blocks, ending, per_residue, caplog
):
    if ending == "h5":
        pytest.importorskip("h5py")
    caplog.set_level("INFO")
    out = tmp_path / "new" / f"a.{ending}"
    summary = embed_file(model, fasta, out, options=options(per_residue=per_residue))
    ids, embeddings, lengths, windows, about = read(out)
    encoder, tokenizer = load_backbone(model)
    wanted = list(embed_proteins(encoder, pairs, tokenizer=tokenizer, max_length=42, per_residue=per_residue))
    assert ids == [identifier for identifier, _ in pairs]
    assert lengths == [len(sequence) for _, sequence in pairs]
    assert windows == [protein.windows for protein in wanted] and windows[-2] == 4
    for found, protein in zip(embeddings, wanted, strict=True):
        np.testing.assert_allclose(found, protein.embedding, atol=1e-5)
    assert about["left_out"] == LEFT_OUT == summary.left_out
    assert (summary.proteins, summary.long_proteins, summary.computed) == (32, 1, 32)
    assert {name: about[name] for name in ("source", "layer", "overlap", "max_length", "model")} == {
        **{"source": ["a.fasta"], "layer": -1, "overlap": 20, "max_length": 42},
        "model": os.path.basename(model),
    }
    assert "1 of 32 proteins has more than 40 residues: it is read in overlapping windows, up to 4" in caplog.text
    assert "left out 2 of 34 records, which have no residues (1 empty sequence, 1 no known residue)" in caplog.text
    assert os.listdir(out.parent) == [out.name]


def stop_after(monkeypatch, parts: int) -> list[str]:
    """Let the writing of parts stop after a number of them, and return the names of those that are written."""
    plain, written = module.write_part, []

    def write_part(path, *args):
        if len(written) == parts:
            raise KeyboardInterrupt
        written.append(path.name)
        return plain(path, *args)

    monkeypatch.setattr(module, "write_part", write_part)
    return written


@pytest.mark.parametrize("ending", ["parquet", "npz"])
def test_a_stopped_command_continues_without_a_gap_or_a_double(
    model, fasta, tmp_path, small_blocks, monkeypatch, ending, caplog
):
    caplog.set_level("INFO")
    whole, out = tmp_path / f"whole.{ending}", tmp_path / f"a.{ending}"
    embed_file(model, fasta, whole, options=options())
    with monkeypatch.context() as patch:
        first = stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            embed_file(model, fasta, out, options=options())
    assert len(first) == 3 and not out.exists()
    folder = tmp_path / f".a.{ending}.unfinished"
    assert sorted(path.name for path in folder.glob("part-*")) == first
    (folder / first[1]).write_bytes((folder / first[1]).read_bytes()[:-200])  # damaged by something else
    with monkeypatch.context() as patch:
        second = stop_after(patch, 100)
        summary = embed_file(model, fasta, out, options=options())
    assert first[1] in second and not {first[0], first[2]} & set(second)
    assert 0 < summary.computed < 32 and "proteins were computed before" in caplog.text
    assert out.read_bytes() == whole.read_bytes()
    assert not folder.exists()


def test_another_option_starts_anew_and_changed_proteins_are_computed_again(
    model, fasta, tmp_path, small_blocks, monkeypatch, caplog
):
    out = tmp_path / "a.parquet"
    for layer, words in ((-1, ""), (1, "an earlier attempt was not finished, but layer was -1 and is now 1")):
        with monkeypatch.context() as patch:
            stop_after(patch, 3)
            with pytest.raises(KeyboardInterrupt):
                embed_file(model, fasta, out, options=options(layer=layer))
        assert words in caplog.text
        assert len(list((tmp_path / ".a.parquet.unfinished").glob("part-*"))) == 3
    text = fasta.read_text()
    fasta.write_text(">new\nMKTAY\n" + text[text.index("\n") + 1 :].partition("\n")[2])  # another first record
    embed_file(model, fasta, out, options=options(layer=1))
    encoder, tokenizer = load_backbone(model)
    wanted = list(embed_proteins(encoder, fasta, tokenizer=tokenizer, max_length=42, layer=1))
    ids, embeddings, *_ = read(out)
    assert ids == [protein.id for protein in wanted] and ids[0] == "new"
    np.testing.assert_allclose(np.stack(embeddings), [protein.embedding for protein in wanted], atol=1e-5)


def test_a_file_that_exists_is_kept_unless_overwrite_is_set(model, fasta, tmp_path):
    out = tmp_path / "a.npz"
    out.write_text("mine")
    with pytest.raises(AdversarialMLMError, match="a.npz, which exists: choose another name, or add --overwrite"):
        embed_file(model, fasta, out)
    assert out.read_text() == "mine"
    embed_file(model, fasta, out, overwrite=True)
    assert len(read(out)[0]) == 32


def test_a_file_that_is_read_is_never_replaced(model, tmp_path):
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"sequence": ["MKT"]}), table)
    before = table.read_bytes()
    with pytest.raises(AdversarialMLMError, match="a.parquet, which is also read"):
        embed_file(model, table, tmp_path / "." / "a.parquet", overwrite=True)
    assert table.read_bytes() == before


def test_float16_halves_the_numbers_and_is_refused_for_numbers_beyond_it(model, fasta, tmp_path, monkeypatch):
    out = tmp_path / "a.npz"
    embed_file(model, fasta, out, output_dtype="float16")
    assert np.load(out)["embeddings"].dtype == np.float16
    plain = protein_embeddings.ProteinEmbedder.embed
    monkeypatch.setattr(
        protein_embeddings.ProteinEmbedder,
        "embed",
        lambda *args: [(values * (1e6 if n == 1 else 1), windows) for n, (values, windows) in enumerate(plain(*args))],
    )
    with pytest.raises(AdversarialMLMError, match="float16, but the embedding of 'p1' has numbers above 65,504"):
        embed_file(model, fasta, out, output_dtype="float16", overwrite=True)


def test_a_second_command_on_the_same_file_is_refused(model, fasta, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "try_lock", lambda folder: False)
    with pytest.raises(AdversarialMLMError, match="a.npz, which another command is writing"):
        embed_file(model, fasta, tmp_path / "a.npz")


def test_records_that_change_while_they_are_read_are_refused(model, fasta, tmp_path, monkeypatch):
    plain = module._Progress.__init__

    def change(*args):
        fasta.write_text(">new\nMKT\n")
        plain(*args)

    monkeypatch.setattr(module._Progress, "__init__", change)
    with pytest.raises(CorpusError, match="the records changed while they were read"):
        embed_file(model, fasta, tmp_path / "a.npz")


@pytest.mark.parametrize(
    "text, name, words",
    [
        (">a\nMKT\n", "a.txt", "a.txt, but its name must end in .parquet, .npz, .h5 or .hdf5"),
        (">a\nMKT\n", "folder.npz", "folder.npz, which is a folder: give the name of a file"),
        ("", "a.npz", "the file is empty"),
        (">dna\n" + "ACGT" * 30, "a.npz", "these seem to be nucleotides"),
        (">a\n\n>b\nJJ\n", "a.npz", "no record has any residues"),
    ],
)
def test_what_cannot_be_embedded_is_refused_in_one_sentence(model, tmp_path, text, name, words):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "b.fasta").write_text(text)
    with pytest.raises(AdversarialMLMError, match=words):
        embed_file(model, tmp_path / "b.fasta", tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["b.fasta", "folder.npz"]


def test_a_folder_that_cannot_be_written_is_a_writing_error(model, fasta, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WritingError, match="could not be written"):
        embed_file(model, fasta, tmp_path / "file" / "a.npz")


def test_hdf5_without_its_package_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingPackageError, match=r"needs the package h5py.*pip install 'adversarial-mlm\[hdf5\]'"):
        embed_file("no-model", "no.fasta", tmp_path / "a.h5")


def test_the_lock_is_given_up_with_the_folder(model, fasta, tmp_path):
    embed_file(model, fasta, tmp_path / "a.npz")
    assert not [path for path in locks._held if str(tmp_path) in path]


def test_the_examples_of_the_docs_run(model, fasta, tmp_path, repository, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(model)
    fasta.rename("proteins.fasta")
    embed_file("runs/demo", "proteins.fasta", "proteins.parquet")
    embed_file("runs/demo", "proteins.fasta", "residues.npz", options=options(per_residue=True))
    blocks = (repository / "docs" / "embedding.md").read_text().split("```python\n")[1:]
    names: dict = {}
    for block in blocks:
        exec(block.partition("```")[0], names)
    assert len(blocks) == 2 and names["protein"].embedding.shape == (16,)
    assert names["vectors"].shape == (32, 16) and names["first"].shape == (names["table"]["length"][0].as_py(), 16)
    assert names["about"]["left_out"] == LEFT_OUT
