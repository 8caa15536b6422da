"""Ways of choosing positions in training: what the collator needs of each record reaches it."""

import datasets
import pytest
import torch

from adversarial_mlm.utils.errors import AdversarialMLMError, CorpusError
from tests.helpers.hooked_trainer import HookedTrainer
from tests.helpers.trainer_helpers import check_resumption


class Counting(HookedTrainer):
    """Counts how often each residue of each protein was masked."""

    def __init__(self, *args, **kwargs):
        self.counts: dict[str, torch.Tensor] = {}
        super().__init__(*args, **kwargs)

    def read(self, model, corrupted, inputs, **kwargs):
        for ids, masked, real in zip(inputs["input_ids"], corrupted.masked, inputs["attention_mask"], strict=True):
            name = str(ids[real.bool()].tolist())
            self.counts[name] = self.counts.get(name, 0) + masked[real.bool()].long()
        return super().read(model, corrupted, inputs, **kwargs)


@pytest.fixture
def few(proteins):
    return datasets.Dataset.from_dict({"sequence": [proteins[i][: 20 + i] for i in range(12)]})


@pytest.mark.parametrize("masking", ["stratified", "random"])
def test_over_its_epochs_each_residue_is_masked_equally_often(make_trainer, few, masking):
    rules = {"masking": masking, "random_rate": 0.4}
    trainer = make_trainer(
        "random", data=few, cls=Counting, masking_rules=rules, max_length=64, max_steps=-1, num_train_epochs=4
    )
    trainer.train()
    assert len(trainer.counts) == 12
    spread = max(int(counts[1:-1].max() - counts[1:-1].min()) for counts in trainer.counts.values())
    assert spread == 1 if masking == "stratified" else spread > 2


def test_a_stratified_run_resumes_in_its_order(make_trainer, few):
    rules = {"masking": "stratified", "random_rate": 0.3}
    check_resumption(lambda **s: make_trainer("random", data=few, masking_rules=rules, **s), (2, 4), max_steps=5)


def test_weights_may_be_a_column_of_the_dataset(make_trainer, few):
    weights = [[1.0] + [0.0] * (len(sequence) - 1) for sequence in few["sequence"]]
    rules = {"masking": "weighted", "random_rate": 0.05}
    data = few.add_column("mask_weights", weights)
    trainer = make_trainer("random", data=data, cls=Counting, masking_rules=rules, max_length=64, max_steps=3)
    trainer.train()
    for counts in trainer.counts.values():
        assert counts[1] >= 1 and counts[2:].sum() <= counts[1]  # a budget of two takes another one
    without = make_trainer("random", folder="without", data=few, masking_rules=rules, max_length=64, max_steps=1)
    with pytest.raises(CorpusError, match="record .*: it has no mask_weights, which masking: weighted needs"):
        without.train()


def test_a_stream_has_no_records_to_share_out(make_trainer, few):
    with pytest.raises(AdversarialMLMError, match="masking: stratified needs numbered records, .*streaming: false"):
        make_trainer("random", data=few.to_iterable_dataset(), masking_rules={"masking": "stratified"})
