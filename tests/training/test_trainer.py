"""Phases, exact sums, resume, streams, refusals, precision."""

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    DataCollatorForRandomMLM,
)
from adversarial_mlm.data.order import EncoderBatchSampler
from adversarial_mlm.masking.losses import IGNORE_INDEX
from tests.helpers.exhaustive import exhaustive
from tests.helpers.hooked_trainer import HookedTrainer
from tests.helpers.trainer_helpers import check_resumption, largest_difference, log_of, parameters_of


class Recorder(HookedTrainer):
    """Notes what happens in which phase."""

    def __init__(self, *args, **kwargs):
        self.events, self.encoder_batches = [], []
        super().__init__(*args, **kwargs)

    def update_noiser(self, update, batches, *others):
        assert not any(module.training for module in self.model.modules())  # no dropout
        assert all(module.training for module in self.noiser.modules())
        super().update_noiser(update, batches, *others)
        self.events.append(("noiser", update))

    def compute_loss(self, model, inputs, **kwargs):
        self.events.append(("encoder", self.state.global_step))
        assert all(module.training for module in self.model.modules())
        self.encoder_batches.append(inputs["input_ids"])
        return super().compute_loss(model, inputs, **kwargs)


# ---- the two phases ----


def test_noiser_updates_come_before_every_cycle_of_the_encoder(make_trainer):
    trainer = make_trainer(cls=Recorder, max_steps=5, noiser_steps=3, encoder_steps=2)
    trainer.train()
    cycles = [[("noiser", 3 * c + i) for i in range(3)] + [("encoder", 2 * c + i) for i in range(2)] for c in range(3)]
    assert trainer.events == sum(cycles, [])[:-1]
    assert trainer.state.global_step == 5


def test_each_phase_gives_gradients_to_its_own_network_only(make_trainer):
    trainer = make_trainer()
    seen = {}

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            seen["encoder"] = [
                (p.grad is not None and bool(p.grad.any()), "encoder") for p in trainer.model.parameters()
            ] + [(p.grad is None, "noiser") for p in trainer.noiser.parameters()]

    real_step = trainer.accelerator.backward

    def backward(loss, **kwargs):
        real_step(loss, **kwargs)
        if not any(p.requires_grad for p in trainer.model.parameters()):
            seen["noiser"] = [(p.grad is None, "encoder") for p in trainer.model.parameters()] + [
                (p.grad is not None and bool(p.grad.any()), "noiser") for p in trainer.noiser.parameters()
            ]

    trainer.accelerator.backward = backward
    trainer.add_callback(Watch())
    trainer.train()
    # positions beyond the longest row and unused tokens have zero gradients, so ask for most and not for all
    for phase in ("encoder", "noiser"):
        silent = [right for right, network in seen[phase] if network != phase]
        assert all(silent) and len(silent) > 5
        assert sum(right for right, network in seen[phase] if network == phase) > 0.9 * (
            len(seen[phase]) - len(silent)
        )
    assert all(p.requires_grad for p in trainer.model.parameters())


def test_the_noiser_climbs_what_the_encoder_descends(make_trainer):
    trainer = make_trainer(
        max_steps=1, learning_rate=0.0, weight_decay=0.0, noiser_steps=60, noiser_learning_rate=1e-2
    )
    teach_to_copy(trainer.model, trainer.get_eval_dataloader())
    before, weights = trainer.evaluate(), parameters_of(trainer)
    trainer.train()
    after = trainer.evaluate()
    # against an encoder that believes what it reads, a wrong residue hurts most and a true one least
    assert after["eval_adversarial_loss"] > before["eval_adversarial_loss"] + 0.2
    assert after["eval_share_replace"] > before["eval_share_replace"] + 0.2
    assert after["eval_share_keep"] < before["eval_share_keep"]
    assert all(torch.equal(v, weights[name]) for name, v in parameters_of(trainer).items() if name[0] == "e")


def teach_to_copy(encoder, batches) -> None:
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    for _ in range(30):
        for batch in batches:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            encoder(**inputs, labels=batch["input_ids"]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def test_parameters_the_user_froze_stay_frozen(make_trainer):
    trainer = make_trainer()
    frozen = trainer.model.get_input_embeddings().weight
    frozen.requires_grad_(False)
    before = frozen.clone()
    trainer.train()
    assert torch.equal(frozen, before) and not frozen.requires_grad


def test_the_encoder_sees_the_same_batches_with_and_without_a_noiser(make_trainer):
    adversarial = make_trainer(cls=Recorder, max_steps=12)
    adversarial.train()
    random = make_trainer("random", cls=Recorder, max_steps=12)
    random.train()
    pairs = list(zip(adversarial.encoder_batches, random.encoder_batches, strict=True))
    assert len(pairs) == 12 and all(torch.equal(a, b) for a, b in pairs)


def test_both_networks_have_their_own_rate_decay_and_clip(make_trainer):
    trainer = make_trainer(noiser_learning_rate=5e-3, noiser_weight_decay=0.3, weight_decay=0.1, warmup_steps=0)
    clips = []
    real = trainer.accelerator.clip_grad_norm_
    trainer.accelerator.clip_grad_norm_ = lambda parameters, clip, *a: clips.append(clip) or real(parameters, clip, *a)
    trainer.args.max_grad_norm, trainer.args.noiser_max_grad_norm = 0.7, 0.2
    trainer.train()
    groups = trainer.optimizer.param_groups
    assert [(g["initial_lr"], g["weight_decay"]) for g in groups] == [(1e-3, 0.1), (1e-3, 0), (5e-3, 0.3), (5e-3, 0)]
    held = [id(p) for g in groups for p in g["params"]]
    assert (
        len(held) == len(set(held)) == len(list(trainer.model.parameters())) + len(list(trainer.noiser.parameters()))
    )
    assert set(clips) == {0.7, 0.2}
    steps = {
        network: {int(trainer.optimizer.state[p]["step"]) for p in module.parameters() if p in trainer.optimizer.state}
        for network, module in (("encoder", trainer.model), ("noiser", trainer.noiser))
    }
    assert steps == {"encoder": {4}, "noiser": {4}}


# ---- exact sums ----


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="paper"),
        pytest.param({"noiser_config": {"view": "blind"}, "noiser_reward": "credit"}, id="credit"),
        pytest.param({"noiser_update": "reversal", "noiser_every": 3, "importance_exponent": 1.0}, id="reversal"),
        exhaustive({"masking": "random"}, id="random"),
        exhaustive(
            {"noiser_update": "reversal", "noiser_reward": "reducible", "masking_rules": {"sampler": "gumbel_topk"}},
            id="reducible",
        ),
        exhaustive({"loss_scope": "all", "unmasked_weight": 0.3, "noiser_reward": "surprise"}, id="surprise"),
    ],
)
def test_a_batch_of_8_equals_4_times_2_accumulated(make_trainer, settings):
    # 10 updates in cycles of 3 and 2: many phases begin and end
    settings = {"double": True, "max_steps": 10, "optim": "adamw_torch", **settings}
    if settings.get("noiser_update") != "reversal":
        settings["noiser_steps"] = 3
    masking = settings.pop("masking", "adversarial")
    whole = make_trainer(masking, "whole", per_device_train_batch_size=8, **settings)
    parts = make_trainer(masking, "parts", per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    assert largest_difference(parameters_of(whole), parameters_of(parts)) == 0
    whole.train()
    parts.train()
    assert largest_difference(parameters_of(whole), parameters_of(parts)) < 1e-10
    for a, b in zip(log_of(whole), log_of(parts), strict=True):
        for key in ("loss", "grad_norm", "noiser_reward", "noiser_grad_norm", "mask_rate", "gap"):
            assert (key in a) == (key in b)
            assert a.get(key, 0) == pytest.approx(b.get(key, 0), rel=1e-6, abs=1e-9)


def test_the_logged_loss_is_the_mean_over_masked_residues(make_trainer, dataset, tokenizer):
    trainer = make_trainer("random", max_steps=1, logging_steps=1, gradient_accumulation_steps=3, learning_rate=0.0)
    sums = []

    class Spy(DataCollatorForRandomMLM):
        def corrupt(self, batch, keys=None):
            corrupted = super().corrupt(batch, keys)
            logits = trainer.model(input_ids=corrupted.input_ids, attention_mask=corrupted.attention_mask).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), corrupted.labels.flatten(), reduction="sum")
            sums.append((loss.item(), (corrupted.labels != IGNORE_INDEX).sum().item()))
            return corrupted

    trainer.data_collator = Spy(tokenizer, random_rate=0.2, max_length=64)
    trainer.train()
    assert log_of(trainer)[0]["loss"] == pytest.approx(sum(a for a, _ in sums) / sum(n for _, n in sums), rel=1e-5)


# ---- resume ----


GAMES = {
    "alternate": {},
    "reversal": {"noiser_update": "reversal", "noiser_every": 2, "noiser_config": {"view": "blind"}},
    "slow copy": {"noiser_update": "reversal", "noiser_reward": "reducible"},
    "shared counter": {"shared_phase_counter": True, "encoder_dropout_in_noiser_phase": True},
    "ramps": {
        "adversarial_share": ["0@2", "1@9"],
        "noiser_learning_rate_factor": ["0.1@0", "1@12"],
        "noiser_reward": "credit",
        "importance_exponent": 0.5,
    },
}


@pytest.mark.parametrize(
    ("game", "stops", "workers"),
    # updates of the first cycles and one in a later epoch: 40 records in batches of 4 accumulated twice make an epoch
    # of 5 updates
    [
        ("alternate", (3, 8), 0),
        exhaustive("alternate", (11,), 2),  # tests/training/test_data_position.py has workers, too
        ("reversal", (3, 8), 0),
        ("slow copy", (8,), 0),
        ("shared counter", (3,), 0),
        ("ramps", (8,), 0),
        exhaustive("alternate", (1, 2, 4, 5, 11), 0),
        exhaustive("reversal", (11,), 2),
        exhaustive("slow copy", (3,), 0),
        exhaustive("shared counter", (8,), 0),
        exhaustive("ramps", (3,), 0),
    ],
)
def test_a_resumed_run_is_bitwise_the_one_that_never_stopped(make_trainer, game, stops, workers):
    settings = {
        "dropout": 0.1,
        "max_steps": 14,
        "gradient_accumulation_steps": 2,
        "dataloader_num_workers": workers,
        **GAMES[game],
    }
    if settings.get("noiser_update") != "reversal":
        settings.update(encoder_steps=4, noiser_steps=3)
    check_resumption(make_trainer, stops, **settings)


def test_a_checkpoint_without_its_noiser_is_refused(make_trainer, tmp_path):
    make_trainer(folder="random", masking="random", save_strategy="steps", save_steps=2).train()
    with pytest.raises(ValueError, match="^masking is adversarial and was random: "):
        make_trainer().train(resume_from_checkpoint=str(tmp_path / "random" / "checkpoint-2"))


# ---- streams ----


def test_an_iterable_dataset_trains_with_a_noiser(make_trainer, dataset):
    trainer = make_trainer(data=dataset.to_iterable_dataset(), max_steps=6, encoder_steps=3)
    before = parameters_of(trainer)
    trainer.train()
    after = parameters_of(trainer)
    moved = [name for name in after if not torch.equal(after[name], before[name])]
    assert trainer.state.global_step == 6 and len(moved) > 0.9 * len(after)


@pytest.mark.parametrize("proteins_in_stream", [1, 3, 10])
def test_a_stream_shorter_than_an_update_goes_on_with_its_next_pass(make_trainer, dataset, proteins_in_stream):
    stream = dataset.select(range(proteins_in_stream)).to_iterable_dataset()
    trainer = make_trainer(data=stream, masking="random", max_steps=3, gradient_accumulation_steps=4, logging_steps=1)
    trainer.train()
    assert trainer.state.global_step == 3
    rates = [entry["mask_rate"] for entry in log_of(trainer) if "mask_rate" in entry]
    assert len(rates) == 3 and min(rates) > 0.1


def test_short_proteins_of_a_stream_are_said_once_and_counted(make_trainer, dataset, caplog):
    stream = dataset.select(range(4)).map(lambda row: {"sequence": row["sequence"][:2]}).to_iterable_dataset()
    trainer = make_trainer(data=stream, masking="random", max_steps=3, logging_steps=1)
    with caplog.at_level("WARNING"):
        trainer.train()
    assert [entry["rows_without_mask"] for entry in log_of(trainer) if "learning_rate" in entry] == [4, 4, 4]
    assert caplog.text.count("so short that no residue of them is masked") == 1


def test_every_update_of_a_stream_is_whole(make_trainer, dataset):
    """10 proteins are two and a half batches of 4: the next pass fills up the third, and no gradient is left over."""
    stream = dataset.select(range(10)).to_iterable_dataset()
    sizes = []

    class Watched(AdversarialMLMTrainer):
        def get_batch_samples(self, *args):
            batches, items = super().get_batch_samples(*args)
            assert all(parameter.grad is None for parameter in self.model.parameters())
            sizes.append([len(batch["row"]) for batch in batches])
            return batches, items

    trainer = make_trainer(cls=Watched, data=stream, masking="random", max_steps=4, gradient_accumulation_steps=2)
    trainer.train()
    assert sizes == [[4, 4]] * 4


@pytest.mark.parametrize(
    ("game", "workers"),
    [
        ({"noiser_update": "reversal"}, 0),
        ({"noiser_steps": 3, "encoder_steps": 2}, 2),
        exhaustive({"noiser_update": "reversal"}, 2),
        exhaustive({"noiser_steps": 3, "encoder_steps": 2}, 0),
    ],
)
def test_a_resumed_stream_ends_as_one_that_never_stopped(make_trainer, dataset, game, workers):
    """40 proteins are 5 updates of 8: the run stops in its second pass. `max_length` 64 crops some of them."""
    settings = {
        **{"data": dataset.to_iterable_dataset(num_shards=3), "dropout": 0.1, "max_steps": 9, **game},
        **{"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 7, "logging_steps": 3},
        **{"lr_scheduler_type": "constant", "dataloader_num_workers": workers},
    }
    straight = make_trainer(folder="straight", **settings)
    straight.train()
    make_trainer(folder="stopped", **{**settings, "max_steps": 7}).train()
    resumed = make_trainer(folder="stopped", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(parameters_of(straight), parameters_of(resumed)) == 0
    assert resumed.state.epoch == straight.state.epoch


def test_what_a_stream_cannot_honour_is_refused(make_trainer, dataset):
    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(dataset)

    with pytest.raises(
        ValueError, match="dataloader_num_workers is 2, but it is unknown how a Rows divides its records"
    ):
        make_trainer(data=Rows(), dataloader_num_workers=2)
    with pytest.raises(ValueError, match="dispatch_batches is not supported"):
        make_trainer(data=Rows(), accelerator_config={"dispatch_batches": True})


# ---- refusals ----


def test_networks_that_do_not_fit_are_refused(make_trainer, make_encoder, make_noiser, tokenizer, tmp_path):
    args = AdversarialMLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser())
    with pytest.raises(ValueError, match="29 token embeddings, but the tokenizer has 30"):
        AdversarialMLMTrainer(make_encoder(vocab_size=29), args, collator)
    with pytest.raises(ValueError, match="all parameters of the encoder are frozen"):
        AdversarialMLMTrainer(make_encoder().requires_grad_(False), args, collator)
    with pytest.raises(ValueError, match="max_length is 512, but the encoder has 100 positions"):
        AdversarialMLMTrainer(make_encoder(max_position_embeddings=100), args, collator)
    with pytest.raises(ValueError, match="AdversarialMLMTrainingArguments, got TrainingArguments"):
        AdversarialMLMTrainer(make_encoder(), TrainingArguments(str(tmp_path), report_to=[]), collator)
    with pytest.raises(ValueError, match="data_collator must be .* got function"):
        AdversarialMLMTrainer(make_encoder(), args, lambda examples: examples)


@pytest.mark.parametrize(
    "name", ["compute_metrics", "compute_loss_func", "model_init", "preprocess_logits_for_metrics"]
)
def test_what_this_trainer_would_ignore_is_refused(make_encoder, make_noiser, tokenizer, tmp_path, name):
    args = AdversarialMLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser())
    with pytest.raises(ValueError, match=f"{name} is not supported"):
        AdversarialMLMTrainer(make_encoder(), args, collator, **{name: print})


def test_an_optimizer_without_the_noiser_is_refused(make_trainer):
    trainer = make_trainer()
    trainer.optimizer = torch.optim.AdamW(trainer.model.parameters())
    with pytest.raises(ValueError, match="does not hold the noiser's parameters"):
        trainer.train()


def test_the_stock_sampler_is_not_used(make_trainer):
    # it shuffles by a generator whose state a resume would have to carry along, and lists the records of an epoch
    assert isinstance(make_trainer().get_train_dataloader().batch_sampler, EncoderBatchSampler)


# ---- precision ----


def test_bfloat16_trains_both_networks_close_to_float32(make_trainer):
    full, half = make_trainer(folder="full"), make_trainer(folder="half", bf16=True)
    full.train()
    half.train()
    for a, b in zip(log_of(full), log_of(half), strict=True):
        for key in ("loss", "noiser_reward", "adversarial_loss"):
            assert a.get(key, 0) == pytest.approx(b.get(key, 0), abs=0.02)
    assert largest_difference(parameters_of(full), parameters_of(half)) > 0
    assert all(value.dtype == torch.float32 for value in parameters_of(half).values())
