import logging
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from adversarial_mlm import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM, NoiserConfig, NoiserModel
from adversarial_mlm.masking.data_collator import SequenceEncoder
from adversarial_mlm.utils.errors import CorpusError
from tests.helpers.exhaustive import exhaustive


@pytest.fixture
def foreign_tokenizer(tokenizer):
    """The same vocabulary without this package's byte table: residues in another order."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = list("LAGVSERTIDPKQNFYMHWCXBUZO")
    vocabulary = {token: index for index, token in enumerate(["<s>", "[PAD]", "</s>", "?", *letters, "[MASK]"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", mask_token="[MASK]", unk_token="?", bos_token="<s>"
    )


def test_a_batch_is_what_the_tokenizer_makes_of_it(tokenizer, proteins):
    batch = DataCollatorForRandomMLM(tokenizer)([{"sequence": s} for s in proteins[:5]])
    expected = tokenizer(proteins[:5], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert batch["num_residues"].tolist() == [len(s) for s in proteins[:5]]
    assert torch.equal(batch["residue_mask"].sum(dim=1), batch["num_residues"])


def test_a_missing_sequence_is_refused_with_its_record(tokenizer):
    collator = DataCollatorForRandomMLM(tokenizer)
    with pytest.raises(CorpusError, match="record P7: a sequence must be text, but is 'None'"):
        collator([{"sequence": "MKV", "id": "P6"}, {"sequence": None, "id": "P7", "record": 3}])
    with pytest.raises(CorpusError, match="record 3: a sequence must be text"):
        collator([{"sequence": None, "record": 3}])
    with pytest.raises(CorpusError, match="an example: a sequence must be text"):
        collator([{"sequence": None}])


def test_any_tokenizer_with_one_token_a_residue_will_do(foreign_tokenizer, proteins):
    batch = SequenceEncoder(foreign_tokenizer)([{"sequence": s} for s in proteins[:5]])
    expected = foreign_tokenizer(proteins[:5], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert batch["num_residues"].tolist() == [len(s) for s in proteins[:5]]


def test_long_proteins_take_a_fresh_window_each_epoch(tokenizer):
    sequence = "ACDEFGHIKLMNPQRSTVWY" * 10
    encoder = SequenceEncoder(tokenizer, max_length=52)
    letters = np.array(tokenizer.convert_ids_to_tokens(range(30)))

    def window(**place) -> str:
        ids = encoder([{"sequence": sequence, **place}])["input_ids"]
        assert ids.shape == (1, 52)
        return "".join(letters[ids[0, 1:-1].numpy()])

    windows = {window(epoch=epoch, record=0) for epoch in range(20)}
    assert len(windows) > 10 and all(w in sequence for w in windows)
    assert window(epoch=3, record=0) == window(epoch=3, record=0)
    assert len({window() for _ in range(20)}) > 10  # without a record number, as in a stream


def test_a_protein_that_fits_exactly_is_not_cropped(tokenizer, proteins):
    protein = proteins[0]
    batch = SequenceEncoder(tokenizer, max_length=len(protein) + 2)([{"sequence": protein, "epoch": 0, "record": 0}])
    assert batch["num_residues"].item() == len(protein)


def test_padding_to_a_multiple_never_exceeds_the_maximum(tokenizer):
    encoder = SequenceEncoder(tokenizer, max_length=20, pad_to_multiple_of=16)
    assert encoder([{"sequence": "ACDEFGH"}])["input_ids"].shape == (1, 16)
    assert encoder([{"sequence": "ACDEFGHIKLMNPQRSTVWY", "epoch": 0, "record": 0}])["input_ids"].shape == (1, 20)


def test_no_weights_and_no_tokenizer_travel_to_the_workers(tokenizer):
    noiser = NoiserModel(NoiserConfig.from_tokenizer(tokenizer))
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=noiser)
    assert len(pickle.dumps(collator.sequence_encoder)) < 10_000


@pytest.mark.parametrize("context", ["fork", exhaustive("spawn")])
def test_workers_give_the_same_batches(tokenizer, proteins, context):
    examples = [{"sequence": s, "epoch": 1, "record": i} for i, s in enumerate(proteins[:8])]
    encoder = SequenceEncoder(tokenizer, max_length=60)
    here = list(DataLoader(examples, batch_size=4, collate_fn=encoder))
    there = list(DataLoader(examples, 4, collate_fn=encoder, num_workers=2, multiprocessing_context=context))
    for a, b in zip(here, there, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_corrupt_without_keys_draws_new_masks_each_time(tokenizer, make_noiser, proteins):
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser())
    batch = collator([{"sequence": s} for s in proteins[:4]])
    assert not torch.equal(collator.corrupt(batch).labels, collator.corrupt(batch).labels)


def test_the_noiser_runs_without_a_graph_unless_a_gradient_is_asked_for(tokenizer, make_noiser, proteins):
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser())
    batch = collator([{"sequence": s} for s in proteins[:4]])
    assert collator.corrupt(batch).one_hot is None
    assert collator.corrupt(batch, differentiable=True).one_hot.requires_grad


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"random_rate": 1.2}, "random_rate"),
        ({"adversarial_rate": 0.0}, "adversarial_rate"),
        ({"adversarial_rate": 0.95}, "adversarial_rate"),
        ({"mask_options": (0.5, 0.5)}, "mask_options"),
        ({"mask_options": (0.9, 0.2, -0.1)}, "mask_options"),
        ({"temperature": 0.0}, "temperature"),
        ({"max_length": 2}, "max_length"),
    ],
)
def test_impossible_settings_are_refused_by_name(tokenizer, make_noiser, settings, word):
    with pytest.raises(ValueError, match=word):
        DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser(), **settings)


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"temperature": 0.29}, True),
        ({"temperature": 0.2, "selection": "threshold"}, True),
        ({"temperature": 0.3}, False),
        ({"temperature": 0.2, "sampler": "gumbel_topk"}, False),
    ],
)
def test_a_temperature_at_which_rss_may_choose_others_is_warned_of(tokenizer, make_noiser, caplog, settings, warned):
    with caplog.at_level(logging.WARNING):
        DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser(), **settings)
    expected = f"temperature is {settings['temperature']}: below 0.3, the largest values of sampler: rss may not be"
    assert [message.startswith(expected) for message in caplog.messages] == [True] * warned


def test_a_noiser_of_another_tokenizer_is_refused(foreign_tokenizer, make_noiser):
    with pytest.raises(ValueError, match="made for another tokenizer"):
        DataCollatorForAdversarialMLM(foreign_tokenizer, noiser=make_noiser())
