"""What a checkpoint records of its run."""

import random

import datasets
import pytest

from adversarial_mlm import AdversarialMLMTrainingArguments, DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
from adversarial_mlm.recipes.recipe import OPTIONS
from adversarial_mlm.saving.options_record import OptionsRecord
from adversarial_mlm.training.run_options import identity_of_data, options_of, records_read


def of(sequences):
    return identity_of_data([{"sequence": sequence} for sequence in sequences], None)["train"]


def test_proteins_are_identified_by_their_number_and_order(proteins):
    known = of(proteins[:50])
    assert known["records"] == 50 and known == of(list(proteins[:50]))
    others = (proteins[:49], proteins[50:100], proteins[49::-1], ["A", *proteins[1:50]], [*proteins[:49], "A"])
    assert all(of(sequences) != known for sequences in others)
    table = datasets.Dataset.from_dict({"sequence": proteins[:50]})
    assert identity_of_data(table, {"members": table})["held_out"] == {"members": known}
    assert of(["MKT"])["records"] == 1


def test_a_stream_is_not_read(proteins):
    stream = datasets.Dataset.from_dict({"sequence": proteins[:5]}).to_iterable_dataset()
    assert identity_of_data(stream, stream) == {"train": None, "held_out": {"": None}}
    assert identity_of_data([], None) == {"train": None, "held_out": {}}


def test_a_dataset_with_random_sequences_is_identified_by_its_number(proteins):
    class Cropped(list):
        def __getitem__(self, index):
            sequence = super().__getitem__(index)
            return {"sequence": sequence[random.randrange(len(sequence)) :]}

    assert identity_of_data(Cropped(proteins[:50]), None)["train"] == {"records": 50, "sample": None}


def test_the_options_of_a_trainer_have_the_names_of_a_recipe(tmp_path, tokenizer, make_noiser):
    args = AdversarialMLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    noiser = make_noiser(view="blind")
    game = options_of(args, DataCollatorForAdversarialMLM(tokenizer, noiser=noiser, max_length=40, random_rate=0.3))
    assert game.keys() <= OPTIONS.fields.keys()
    assert (game["masking"], game["noiser_view"], game["noiser_backbone"]) == ("adversarial", "blind", "gru")
    assert (game["max_length"], game["random_rate"], game["seed"]) == (40, 0.3, 42)
    plain = options_of(args, DataCollatorForRandomMLM(tokenizer))
    assert plain["masking"] == "random" and "noiser_view" not in plain


@pytest.mark.parametrize(
    ("options", "processes", "records"),
    [
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, 2, 240),
        ({"global_batch_size": ["8"], "max_steps": -1}, 2, 80),
        ({"global_batch_size": ["8@0", "16@6"], "max_steps": 20}, 2, 6 * 8 + 4 * 16),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, None, None),
        ({"global_batch_size": ["x"], "max_steps": 20}, 2, None),
        ({}, 2, None),
    ],
)
def test_records_that_ten_updates_have_read(options, processes, records):
    assert records_read(OptionsRecord(options, processes=processes), 10) == records
