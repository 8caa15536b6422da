"""Chains of small structures: residues along a line, 5 Å apart, with Cα and Cβ at different places."""

import gzip

import numpy as np
import pytest

from adversarial_mlm.cli.main import main
from adversarial_mlm.downstream.contacts.data import read_contacts
from adversarial_mlm.downstream.contacts.structures import read_chains
from adversarial_mlm.downstream.results import read_results
from adversarial_mlm.utils.errors import CorpusError

gemmi = pytest.importorskip("gemmi")

NAMES = ["MET", "LYS", "GLY", "ALA", "MSE", "SER", "VAL", "LEU"]
BETA = 1.5  # distance of Cβ from Cα


def atom(number, name, residue, chain, place, x, y, alternative=" "):
    kind = "HETATM" if residue in ("MSE", "HOH") else "ATOM  "
    return (
        f"{kind}{number:5d}  {name:<3s}{alternative}{residue} {chain}{place:4d}    "
        f"{x:8.3f}{y:8.3f}{0:8.3f}{1:6.2f}{0:6.2f}          {name[0]:>2s}\n"
    )


def residue_lines(chain, missing=(), without_beta=(), residues=NAMES):
    for place, residue in enumerate(residues, start=1):
        if place in missing:
            continue
        yield atom(place, "CA", residue, chain, place, 5.0 * place, 0.0)
        if residue != "GLY" and place not in without_beta:
            yield atom(place, "CB", residue, chain, place, 5.0 * place, BETA)


def write_pdb(path, chains, seqres=NAMES, tail=""):
    text = "".join(f"SEQRES   1 {chain}{len(seqres):5d}  {' '.join(seqres)}\n" for chain in chains) if seqres else ""
    for chain, options in chains.items():
        text += "".join(residue_lines(chain, **options)) + "TER\n"
    path.write_text(text + tail + "END\n")
    return str(path)


def test_the_place_of_a_residue_is_its_beta_carbon_and_for_glycine_its_alpha_carbon(tmp_path):
    (chain,) = read_chains(write_pdb(tmp_path / "1abc.pdb", {"A": {}}))
    assert (chain.id, chain.sequence, chain.whole) == ("1abc_A", "MKGAMSVL", True)  # MSE is a methionine
    wanted = [[5.0 * place, 0.0 if name == "GLY" else BETA, 0.0] for place, name in enumerate(NAMES, start=1)]
    np.testing.assert_allclose(chain.coordinates, wanted)


def test_missing_residues_keep_their_position_and_have_no_place(tmp_path):
    path = write_pdb(tmp_path / "1abc.pdb", {"A": {"missing": (1, 4), "without_beta": (6,)}})
    (chain,) = read_chains(path)
    assert chain.sequence == "MKGAMSVL"
    assert np.isnan(chain.coordinates[:, 0]).tolist() == [True, False, False, True, False, True, False, False]
    (protein,) = read_contacts(path).proteins
    assert protein.counted == 5


def test_mmcif_gives_the_same_as_pdb_also_compressed(tmp_path):
    path = write_pdb(tmp_path / "1abc.pdb", {"A": {"missing": (2,)}})
    structure = gemmi.read_structure(path)
    structure.setup_entities()
    structure.assign_label_seq_id()
    structure.make_mmcif_document().write_file(str(tmp_path / "2abc.cif"))
    (tmp_path / "3abc.cif.gz").write_bytes(gzip.compress((tmp_path / "2abc.cif").read_bytes()))
    chains = [chain for name in ("1abc.pdb", "2abc.cif", "3abc.cif.gz") for chain in read_chains(str(tmp_path / name))]
    assert [chain.id for chain in chains] == ["1abc_A", "2abc_A", "3abc_A"]
    for chain in chains[1:]:
        assert chain.sequence == chains[0].sequence
        np.testing.assert_allclose(chain.coordinates, chains[0].coordinates, atol=1e-3)


def test_of_equal_chains_the_first_is_read_and_water_is_no_chain(tmp_path):
    water = "".join(atom(90 + n, "O", "HOH", "W", n, 0, 0) for n in range(3))
    path = write_pdb(tmp_path / "1abc.pdb", {"A": {}, "B": {"missing": (1,)}}, tail=water)
    assert [chain.id for chain in read_chains(path)] == ["1abc_A"]


def test_without_a_full_sequence_the_residues_with_coordinates_are_read_and_a_note_says_so(tmp_path):
    path = write_pdb(tmp_path / "1abc.pdb", {"A": {"missing": (4,)}}, seqres=None)
    (chain,) = read_chains(path)
    assert (chain.sequence, chain.whole) == ("MKGMSVL", False)
    assert "for 1 of 1 chains the file has no full sequence" in read_contacts(path).notes[0]


def test_a_folder_is_read_file_after_file_and_what_has_no_chain_is_counted(tmp_path):
    write_pdb(tmp_path / "b.pdb", {"A": {}})
    write_pdb(tmp_path / "a.ent", {"C": {"residues": [*NAMES, "TRP"]}}, seqres=[*NAMES, "TRP"])
    (tmp_path / "water.pdb").write_text(atom(1, "O", "HOH", "W", 1, 0, 0) + "END\n")
    (tmp_path / "notes.txt").write_text("no structure")
    found = read_contacts(str(tmp_path))
    assert [protein.id for protein in found.proteins] == ["a_C", "b_A"]
    assert found.left_out.counts == {"without a protein chain": 1} and found.records == 3


def test_a_file_that_is_no_structure_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "1abc.cif").write_text("data_x\nloop_\n_a.b\n_a.c\n1 2 3\n")
    with pytest.raises(CorpusError, match="1abc.cif: could not be read as a structure"):
        list(read_chains(str(tmp_path / "1abc.cif")))


NO_STRUCTURE = "data_x\nloop_\n_a.b\n_a.c\n1 2 3\n"


def test_files_of_a_folder_that_cannot_be_read_are_left_out_named_and_counted(tmp_path):
    write_pdb(tmp_path / "good.pdb", {"A": {}})
    for number in range(12):
        (tmp_path / f"bad{number:02}.cif").write_text(NO_STRUCTURE)
    whole = gzip.compress((tmp_path / "good.pdb").read_bytes())
    (tmp_path / "cut.pdb.gz").write_bytes(whole[:-20])
    found = read_contacts(str(tmp_path))
    assert [protein.id for protein in found.proteins] == ["good_A"] and found.records == 1
    assert list(found.unreadable) == [f"bad{number:02}.cif" for number in range(12)] + ["cut.pdb.gz"]
    assert all(reason and str(tmp_path) not in reason for reason in found.unreadable.values())
    (note,) = found.notes
    assert note.startswith(f"{tmp_path.name}: 13 of 14 files are left out, because they could not be read")
    assert note.endswith(": " + ", ".join(f"bad{number:02}.cif" for number in range(10)) + " and 3 more.")


def test_a_folder_without_any_readable_structure_is_refused_with_the_first_reason(tmp_path):
    for name in ("b.cif", "a.cif"):
        (tmp_path / name).write_text(NO_STRUCTURE)
    with pytest.raises(CorpusError, match=r"none of its 2 files could be read .*; the first is a\.cif \(.+\)\.$"):
        read_contacts(str(tmp_path))
    (tmp_path / "water.pdb").write_text(atom(1, "O", "HOH", "W", 1, 0, 0) + "END\n")
    with pytest.raises(CorpusError, match="1 of 1 record is left out: .*, and 2 files could not be read"):
        read_contacts(str(tmp_path))


def test_results_log_and_table_say_that_chains_are_missing(tmp_path, capsys, caplog):
    folder, out = tmp_path / "structures", str(tmp_path / "out")
    folder.mkdir()
    for name in ("1abc", "2abc"):
        write_pdb(folder / f"{name}.pdb", {"A": {}})
    (folder / "bad.cif").write_text(NO_STRUCTURE)
    words = ["--task", "contacts", "--mode", "baselines", "--test_file", str(folder), "--output_dir", out]
    assert main(["evaluate", *words]) == 0
    told = "structures: 1 of 3 files is left out, because it could not be read as a structure: bad.cif."
    for result in read_results(out):
        assert told in result["notes"] and list(result["data"]["unreadable"]["test"]) == ["bad.cif"]
    assert told in capsys.readouterr().out and told in caplog.text
    assert "test: bad.cif is left out: " in caplog.text
