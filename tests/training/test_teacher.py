"""A teacher that weights residues and gives soft targets, against loops of plain PyTorch in float64."""

import copy

import datasets
import pytest
import torch
from torch.nn import functional as F

from adversarial_mlm import AdversarialMLMTrainer, AdversarialMLMTrainingArguments, build_protein_tokenizer
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.utils.errors import AdversarialMLMError, CheckpointError
from tests.helpers.trainer_helpers import check_resumption, largest_difference, log_of, parameters_of

STEPS, RATE = 4, 0.2
LEARNABILITY = {"loss_weights": "learnability", "teacher": "ema", "teacher_decay": 0.6, "learnability_share": 0.8}
SOFT = {"soft_targets": ["0.7@0", "0@75%"]}


@pytest.fixture
def reference(tmp_path, make_encoder, tokenizer):
    """The folder of another encoder, with a table of its own."""
    folder = str(tmp_path / "reference")
    encoder = make_encoder(seed=7)
    torch.nn.init.normal_(encoder.cls.predictions.bias)
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Recorder(AdversarialMLMTrainer):
    def __init__(self, *args, **kwargs):
        self.read: list[dict] = []
        super().__init__(*args, **kwargs)

    def get_batch_samples(self, *args):
        batches, items = super().get_batch_samples(*args)
        self.read += [copy.deepcopy(batch) for batch in batches]
        return batches, items


def distributions(logits, ids):
    return torch.softmax(logits.double()[:, ids], dim=-1)


def plain_run(trainer, teacher, decay, beta, soft_shares):
    """Train a copy of a trainer's encoder on the batches that it read, residue by residue."""
    encoder, collator = trainer.first, trainer.data_collator
    ids, mean = list(collator.vocabulary.replacement_ids), 0.0
    optimizer = torch.optim.SGD(encoder.parameters(), lr=RATE)
    for step, batch in enumerate(trainer.read):
        masks = collator.corrupt(batch, row_keys(trainer.args.seed, ENCODER_PHASE, step, batch["row"]))
        logits = encoder(input_ids=masks.input_ids, attention_mask=batch["attention_mask"]).logits[masks.masked]
        with torch.no_grad():
            taught = teacher(input_ids=masks.input_ids, attention_mask=batch["attention_mask"]).logits[masks.masked]
        p, q, labels = distributions(taught, ids), distributions(logits.detach(), ids), masks.labels[masks.masked]
        gains = [sum(a * (a.log() - b.log()) for a, b in zip(*row, strict=True)) for row in zip(p, q, strict=True)]
        total = 0.0
        for i, label in enumerate(labels):
            log_p = F.log_softmax(logits[i], dim=-1)
            soft = -(p[i] * log_p[ids]).sum()
            loss = (1 - soft_shares[step]) * -log_p[label] + soft_shares[step] * soft
            weight = (1 - beta) + beta * min(gains[i].item() / mean, 10) if mean > 1e-6 else 1.0
            total = total + weight * loss
        optimizer.zero_grad()
        (total / len(labels)).backward()
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.step()
        mean = sum(gain.item() for gain in gains) / len(gains)
        if decay is not None:
            for slow, fast in zip(teacher.parameters(), encoder.parameters(), strict=True):
                slow.data = decay * slow.data + (1 - decay) * fast.data
    return encoder


@pytest.mark.parametrize("which", ["learnability", "soft", "both"])
def test_an_update_is_that_of_a_plain_loop(make_trainer, make_encoder, reference, which):
    settings = {"optim": "sgd", "learning_rate": RATE, "double": True, "max_steps": STEPS, "max_grad_norm": 0.0}
    settings |= {"per_device_train_batch_size": 3, "cls": Recorder, "weight_decay": 0.0}
    options = {
        "learnability": LEARNABILITY,
        "soft": {**SOFT, "reference_model": reference},
        "both": {**SOFT, "loss_weights": "learnability", "reference_model": reference},
    }[which]
    trainer = make_trainer("random", **settings, **options)
    trainer.first = copy.deepcopy(trainer.model)
    start = parameters_of(trainer)
    teacher = copy.deepcopy(trainer.model)
    if which != "learnability":
        teacher = type(trainer.model).from_pretrained(reference).eval()
    trainer.train()
    beta = {"learnability": 0.8, "soft": 0.0, "both": 0.5}[which]
    shares = [0.0] * 4 if which == "learnability" else [0.7 * (1 - step / 3) for step in range(3)] + [0.0]
    plain = plain_run(trainer, teacher, 0.6 if which == "learnability" else None, beta, shares)
    expected = {f"encoder.{name}": value.detach() for name, value in plain.named_parameters()}
    assert largest_difference(parameters_of(trainer), expected) < 1e-7  # weights are float32
    assert trainer.game.teacher._state.mean > 1e-5  # so that the weights were not all 1
    assert largest_difference(parameters_of(trainer), start) > 1e-4


def test_weights_and_log_do_not_depend_on_the_split_of_a_batch(make_trainer, proteins):
    cut = [protein[: 6 + 7 * (i % 8)] for i, protein in enumerate(proteins[:40])]  # the parts have other lengths
    options = {**LEARNABILITY, "soft_targets": ["0.3"], "double": True, "max_steps": 4, "optim": "adamw_torch"}
    options["data"] = datasets.Dataset.from_dict({"id": cut, "sequence": cut})
    whole = make_trainer("random", "whole", per_device_train_batch_size=8, **options)
    parts = make_trainer(
        "random", "parts", per_device_train_batch_size=4, gradient_accumulation_steps=2, chunk_overhead=0, **options
    )
    whole.train()
    parts.train()
    assert largest_difference(parameters_of(whole), parameters_of(parts)) < 1e-10
    for a, b in zip(log_of(whole), log_of(parts), strict=True):
        for figure in ("loss", "learnability", "teacher_loss"):
            assert a.get(figure, 0) == pytest.approx(b.get(figure, 0))


def test_shares_of_the_run_refer_to_its_updates_if_epochs_are_given(make_trainer):
    options = {"teacher": "ema", "soft_targets": ["0.8@0", "0@100%"], "max_steps": -1, "num_train_epochs": 0.4}
    trainer = make_trainer("random", logging_steps=1, **options)
    trainer.train()
    entries = [entry for entry in log_of(trainer) if "learning_rate" in entry]
    assert [entry["soft_target_share"] for entry in entries] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_a_run_with_a_teacher_resumes_bitwise(make_trainer):
    check_resumption(
        lambda **settings: make_trainer("random", **LEARNABILITY, **SOFT, **settings),
        (2, 3),
        compare=lambda a, b: torch.testing.assert_close(
            a.game.teacher._state.state_dict(), b.game.teacher._state.state_dict(), rtol=0, atol=0
        ),
        max_steps=5,
        dropout=0.1,
    )


def test_the_log_tells_what_the_teacher_knows(make_trainer, reference):
    options = {"reference_model": reference, "loss_weights": "learnability", "soft_targets": ["0.5@0", "0@100%"]}
    trainer = make_trainer("random", max_steps=4, logging_steps=1, **options)
    trainer.train()
    entries = [entry for entry in log_of(trainer) if "learning_rate" in entry]
    assert [entry["soft_target_share"] for entry in entries] == pytest.approx([0.5, 0.375, 0.25, 0.125])
    assert all(entry["learnability"] > 0 and entry["teacher_loss"] > 1 for entry in entries)
    assert not any(p.requires_grad for p in trainer.game.teacher.network.parameters())


def test_with_a_noiser_its_reward_is_the_plain_loss(make_trainer):
    plain, taught = (
        make_trainer(folder=name, noiser_reward="loss", max_steps=2, logging_steps=1, **options)
        for name, options in (("plain", {}), ("taught", LEARNABILITY))
    )
    for trainer in (plain, taught):
        trainer.train()
    first = [log_of(trainer)[0]["noiser_reward"] for trainer in (plain, taught)]
    assert first[0] == first[1]
    with pytest.raises(AdversarialMLMError, match="reversal with noiser_reward: loss would make the noiser climb"):
        make_trainer(noiser_update="reversal", noiser_reward="loss", **LEARNABILITY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_weights": "learnability"}, "loss_weights: learnability needs a teacher: set reference_model, or"),
        ({"soft_targets": ["0.5"]}, "soft_targets needs a teacher"),
        ({"soft_targets": ["1.5"], "teacher": "ema"}, "soft_targets must be between 0 and 1, got 1.5"),
        ({"soft_targets": ["0.5@9", "0@50%"], "teacher": "ema"}, "soft_targets must be one number, or value@step"),
        (
            {"teacher": "ema"},
            "teacher only has an effect with loss_weights: learnability, soft_targets or noiser_reward: learnability",
        ),
        ({"reference_model": "x"}, "reference_model only has an effect with"),
        (
            {"learnability_share": 0.1, "soft_targets": ["1"], "teacher": "ema"},
            "learnability_share only has an effect",
        ),
        ({**LEARNABILITY, "learnability_share": 2.0}, "learnability_share must be between 0 and 1, got 2.0"),
        ({**LEARNABILITY, "teacher_decay": 1.0}, "teacher_decay must be at least 0 and below 1, got 1.0"),
        (
            {**LEARNABILITY, "reference_model": "x"},
            "teacher is ema, but reference_model is also given: set teacher: reference, or remove one",
        ),
        ({**LEARNABILITY, "teacher": "me"}, "teacher must be one of reference, ema, got 'me'"),
        ({"loss_weights": "hard"}, "loss_weights must be one of uniform, learnability, got 'hard'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_sentence(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        AdversarialMLMTrainingArguments(str(tmp_path), use_cpu=True, report_to=[], **options)


def test_a_reference_that_does_not_fit_is_named(make_trainer, make_encoder, reference, tmp_path):
    with pytest.raises(CheckpointError, match="reference_model is .*nowhere"):
        make_trainer("random", soft_targets=["0.5"], reference_model=str(tmp_path / "nowhere"))
    short = str(tmp_path / "short")
    make_encoder(max_position_embeddings=40).save_pretrained(short)
    build_protein_tokenizer().save_pretrained(short)
    with pytest.raises(AdversarialMLMError, match="reference_model .* has 40 positions, but max_length is 64"):
        make_trainer("random", soft_targets=["0.5"], reference_model=short, max_length=64)


def test_a_checkpoint_without_the_moving_average_cannot_be_resumed(make_trainer):
    base = make_trainer("random", max_steps=2, save_strategy="steps", save_steps=2)
    base.train()
    taught = make_trainer("random", folder="other", max_steps=4, **LEARNABILITY)
    with pytest.raises(CheckpointError, match="teacher"):
        taught.train(resume_from_checkpoint=f"{base.args.output_dir}/checkpoint-2")
