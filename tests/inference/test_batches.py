import pytest
import torch

from adversarial_mlm.inference.batches import DataCollatorForTask
from tests.helpers.foreign_encoders import BUILDERS

KINDS = ["bert", "prot_bert", "esm", "roberta", "modernbert"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_the_ids_and_the_padding_that_the_tokenizer_itself_gives(kind, tmp_path):
    tokenizer = BUILDERS[kind](tmp_path)[1]
    collator = DataCollatorForTask(tokenizer, "regression", 50)
    proteins = ["MKTAYIAKQR", "GAV"]
    batch = collator([{"sequence": protein} for protein in proteins])
    texts = [" ".join(protein) if collator.table.spaced else protein for protein in proteins]
    theirs = tokenizer(texts, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], theirs["input_ids"])
    assert torch.equal(batch["attention_mask"], theirs["attention_mask"])
    assert batch["residue_mask"].sum(1).tolist() == [10, 3]
    special = torch.isin(batch["input_ids"], torch.tensor(tokenizer.all_special_ids))
    assert not (special & batch["residue_mask"]).any()
    assert "labels" not in batch


def test_of_a_protein_that_is_too_long_the_beginning_is_read_between_its_special_tokens(tokenizer):
    collator = DataCollatorForTask(tokenizer, "token_classification", 6)
    batch = collator([{"sequence": "ACDEFGH", "label": [0, 1, 2, 0, 1, 2, 0]}])
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == ["<cls>", "A", "C", "D", "E", "<sep>"]
    assert batch["labels"].tolist() == [[-100, 0, 1, 2, 0, -100]]


def test_labels_of_residues_stand_where_their_residues_stand(tokenizer):
    collator = DataCollatorForTask(tokenizer, "token_classification", 50)
    batch = collator([{"sequence": "ACD", "label": [2, -100, 1]}, {"sequence": "A", "label": [-1]}])
    assert batch["labels"].tolist() == [[-100, 2, -100, 1, -100], [-100, -1, -100, -100, -100]]


@pytest.mark.parametrize(
    ("kind", "labels", "dtype"),
    [("regression", [0.5, -100.0], torch.float32), ("classification", [3, -1], torch.int64)],
)
def test_labels_of_proteins_are_one_for_each(tokenizer, kind, labels, dtype):
    collator = DataCollatorForTask(tokenizer, kind, 50)
    batch = collator([{"sequence": "ACD", "label": labels[0]}, {"sequence": "A", "label": labels[1]}])
    assert batch["labels"].tolist() == labels and batch["labels"].dtype == dtype


def test_a_length_without_room_for_a_residue_is_refused(tokenizer):
    with pytest.raises(ValueError, match="max_length is 2, which leaves no room for a residue"):
        DataCollatorForTask(tokenizer, "regression", 2)


def test_a_tokenizer_without_padding_is_refused(tmp_path):
    tokenizer = BUILDERS["bert"](tmp_path)[1]
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="the tokenizer has no padding token"):
        DataCollatorForTask(tokenizer, "regression", 20)
