import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adversarial_mlm.downstream.contacts.data import ContactColumns, read_contacts
from adversarial_mlm.downstream.contacts.scoring import pairs_of
from adversarial_mlm.utils.errors import CorpusError, MissingPackageError
from tests.helpers.tape_files import write_lmdb

ROWS = [
    {"id": "a", "sequence": "MKTAYIAKQRQISFVK", "contacts": [[1, 9], [16, 3], [2, 4]]},
    {"id": "b", "sequence": "MKTAYIAKQR", "contacts": []},
]


def contacts_of(protein):
    """The pairs in contact, from 1."""
    first, second = pairs_of(len(protein.sequence))
    return {(i + 1, j + 1) for i, j, label in zip(first, second, protein.labels(), strict=True) if label == 1}


def write_table(folder, ending, rows):
    path = folder / f"table{ending}"
    if ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = [",".join(rows[0])]
        lines += [",".join(json.dumps(str(v)) if isinstance(v, list) else v for v in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_table_lists_the_contacts_counted_from_1(tmp_path, ending):
    found = read_contacts(write_table(tmp_path, ending, ROWS))
    assert [protein.id for protein in found.proteins] == ["a", "b"]
    assert contacts_of(found.proteins[0]) == {(1, 9), (3, 16)}  # 2 and 4 are too near
    assert contacts_of(found.proteins[1]) == set() and found.proteins[1].counted == 10


def test_columns_have_other_names_and_residues_may_not_count(tmp_path):
    rows = [{"name": "x", "protein": "MKT-YIAKQRQIS", "pairs": [[1, 9]], "ok": "1111111101111"}]
    columns = ContactColumns("protein", "pairs", "name", "ok")
    (protein,) = read_contacts(write_table(tmp_path, ".jsonl", rows), columns).proteins
    assert protein.sequence == "MKT?YIAKQRQIS" and protein.counted == 12
    first, second = pairs_of(13)
    np.testing.assert_array_equal(protein.labels() < 0, (first == 8) | (second == 8))


def test_proteins_without_contacts_or_pairs_are_left_out_and_counted(tmp_path):
    rows = [
        *ROWS,
        {"id": "c", "sequence": "MKTAYIAKQR", "contacts": None},
        {"id": "d", "sequence": "MK", "contacts": []},
    ]
    found = read_contacts(write_table(tmp_path, ".jsonl", rows))
    assert len(found.proteins) == 2 and found.records == 4
    assert found.left_out.counts == {"without a label": 1, "without a pair of residues that counts": 1}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"contacts": [[1, 17]]}, "names the residue 17, but the 16 residues are counted from 1 to 16"),
        ({"contacts": [[0, 9]]}, "names the residue 0, but"),
        ({"contacts": [[1, 2, 3]]}, "but must contain a list of pairs such as"),
        ({"contacts": [[1.5, 9]]}, "but must contain a list of pairs such as"),
        ({"contacts": "1-9"}, "but must contain a list of pairs such as"),
        ({"sequence": ""}, 'column "sequence" contains no sequence'),
        ({"valid_mask": "11"}, 'column "valid_mask" has 2 values for 16 residues'),
    ],
)
def test_a_mistake_names_file_record_and_column(tmp_path, change, sentence):
    path = write_table(tmp_path, ".jsonl", [ROWS[0], {**ROWS[0], **change}])
    with pytest.raises(CorpusError, match="table.jsonl: line 2: column") as error:
        read_contacts(path)
    assert sentence in str(error.value)


def test_a_table_without_contacts_is_refused(tmp_path):
    path = write_table(tmp_path, ".jsonl", [{"sequence": "MKTAYIAKQR", "y": 1}])
    with pytest.raises(CorpusError, match='there is no column "contacts"'):
        read_contacts(path)


def proteinnet():
    """Records as TAPE publishes them: one atom of each residue in ångström, zeros where there is none."""
    generator = np.random.default_rng(3)
    for index in range(3):
        tertiary = np.cumsum(generator.normal(0, 2.5, (30, 3)), axis=0).astype(np.float32)
        valid = generator.random(30) < 0.8
        tertiary[~valid] = 0
        primary = "".join(generator.choice(list("ACDEFGHIKLMNPQRSTVWY"), 30))
        yield {"primary": primary, "tertiary": tertiary, "valid_mask": valid, "id": f"{index}#1abc".encode()}


@pytest.mark.parametrize("ending", [".json", ".lmdb"])
def test_proteinnet_has_contacts_below_8_angstrom_of_residues_that_are_valid(tmp_path, write_split, ending):
    records = list(proteinnet())
    if ending == ".lmdb":
        write_lmdb(tmp_path / "proteinnet_test.lmdb", records)
    else:
        write_split(tmp_path / "proteinnet_test", ending, records)
    found = read_contacts(str(tmp_path / f"proteinnet_test{ending}")).proteins
    assert [protein.id for protein in found] == ["0#1abc", "1#1abc", "2#1abc"]
    for record, protein in zip(records, found, strict=True):
        wanted, unknown = set(), 0
        for i in range(30):
            for j in range(i + 6, 30):
                valid = record["valid_mask"][i] and record["valid_mask"][j]
                unknown += not valid
                if valid and np.linalg.norm(record["tertiary"][i] - record["tertiary"][j]) < 8:
                    wanted.add((i + 1, j + 1))
        assert contacts_of(protein) == wanted != set() and (protein.labels() == -1).sum() == unknown


def test_coordinates_of_another_shape_are_refused(tmp_path, write_split):
    (record, *_) = proteinnet()
    write_split(tmp_path / "x", ".json", [{**record, "tertiary": np.zeros((90, 3))}])
    with pytest.raises(CorpusError, match='column "tertiary" has the shape 90×3 for 30 residues'):
        read_contacts(str(tmp_path / "x.json"))


def test_structures_without_gemmi_are_refused_in_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "1abc.pdb").write_text("END\n")
    monkeypatch.setitem(sys.modules, "gemmi", None)
    with pytest.raises(MissingPackageError, match=r"reading 1abc.pdb needs the package gemmi.*\[structures\]"):
        read_contacts(str(tmp_path))


def test_a_folder_without_structures_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="there is no file that ends in .cif, .mmcif, .pdb, .ent"):
        read_contacts(str(tmp_path))
