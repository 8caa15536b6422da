import os
import signal

import pytest
from datasets import Dataset

from adversarial_mlm import AdversarialMLMTrainer, AdversarialMLMTrainingArguments, DataCollatorForRandomMLM
from adversarial_mlm.comparison.interleaved_timing import train_interleaved
from adversarial_mlm.utils import interrupts
from adversarial_mlm.utils.errors import Interrupted


@pytest.fixture
def trainers(make_encoder, tokenizer, proteins, tmp_path):
    def make(steps: int, loss=None):
        class Trainer(AdversarialMLMTrainer):
            def compute_loss(self, *args, **kwargs):
                if loss is not None:
                    loss(self)
                return super().compute_loss(*args, **kwargs)

        dataset = Dataset.from_dict({"sequence": [protein[:12] for protein in proteins[:20]]})
        args = AdversarialMLMTrainingArguments(
            output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=2, use_cpu=True, report_to="none",
            save_strategy="no", disable_tqdm=True, logging_steps=10**6,
        )  # fmt: skip
        return [
            Trainer(make_encoder(), args, DataCollatorForRandomMLM(tokenizer, 16), train_dataset=dataset)
            for _ in range(3)
        ]

    return make


def test_trainers_run_interleaved_step_by_step(trainers):
    order = []
    found = trainers(4, loss=lambda trainer: order.append(id(trainer)))
    seconds = train_interleaved(found)
    assert [len(series) for series in seconds] == [4, 4, 4]
    assert order == [id(trainer) for trainer in found] * 4


def test_a_trainer_that_fails_ends_the_others(trainers):
    def fail(trainer):
        if trainer is found[1] and trainer.state.global_step == 2:
            raise MemoryError("no more")

    found = trainers(10**6, loss=fail)
    with pytest.raises(RuntimeError, match="a trainer failed while its updates were timed"):
        train_interleaved(found)
    assert [trainer.state.global_step for trainer in found] == [3, 2, 2]


def test_a_signal_ends_all_of_them_in_good_order(trainers):
    def stop(trainer):
        if trainer is found[2] and trainer.state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    found = trainers(10**6, loss=stop)
    with pytest.raises(Interrupted), interrupts.raised():
        train_interleaved(found)
    assert [trainer.state.global_step for trainer in found] == [5, 5, 4]  # told after one step, heard after the next
