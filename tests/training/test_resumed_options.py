"""Options that change when a run resumes reach the optimizer, the schedule, the game, the batches and the masks.

Few runs resume with many changes each. Every option has a probe, which fails if the resumed run has the old value.
"""

import functools
import math
from types import SimpleNamespace

import datasets
import pytest
import torch
from transformers import TrainerCallback, training_args

from adversarial_mlm import DataCollatorForChosenProteinsMLM
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.recipes.run import pretrain
from adversarial_mlm.saving.resume_options import RULES, Effect
from adversarial_mlm.training import noiser_game, packed_attention, precision
from tests.helpers.hooked_trainer import HookedTrainer
from tests.helpers.packed_kernels import with_cpu_kernels
from tests.helpers.trainer_helpers import build_trainer, log_of

LEARNING_RATE, NOISER_RATE, UPDATES = 1e-2, 2e-2, 7

ONE_BACKWARD = {
    **{"learning_rate": LEARNING_RATE, "noiser_learning_rate": NOISER_RATE, "weight_decay": 0.3},
    **{"noiser_weight_decay": 0.4, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-4},
    **{"max_grad_norm": 1e-3, "noiser_max_grad_norm": 1e-5, "lr_scheduler_type": "cosine_with_restarts"},
    **{"lr_scheduler_kwargs": {"num_cycles": 2}, "warmup_steps": 3, "max_steps": UPDATES},
    **{"noiser_learning_rate_factor": ["0@0", "1@8"], "adversarial_share": ["0.5"], "loss_scope": "all"},
    **{"unmasked_weight": 0.5, "importance_exponent": 0.25, "neftune_noise_alpha": 3.0, "noiser_update": "reversal"},
    **{"noiser_every": 2, "reversal_strength": ["0.125"], "noiser_reward": "credit", "quick_cpu_dropout": False},
    **{"chunk_overhead": 0, "bf16": True},
}
ALTERNATING = {
    **{"slow_encoder_decay": 0.5, "encoder_dropout_in_noiser_phase": True, "noiser_steps": 3, "encoder_steps": 1},
    **{"shared_phase_counter": True, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},
    **{"dataloader_drop_last": True, "activation_checkpointing": True},
    **{"activation_checkpointing_kwargs": {"every_n_layers": 2}},
}
EPOCHS = {"max_steps": -1, "num_train_epochs": 2, "global_batch_size": ["8"], "tokens_per_micro_batch": 32}
MASKS = {
    **{"adversarial_rate": 0.25, "random_rate": 0.15, "mask_options": [1.0, 0.0, 0.0], "learned_options": True},
    **{"sampler": "rss", "selection": "threshold", "gated": False, "temperature": 2.0, "candidate_rate": 0.5},
    **{"max_length": 24, "mask_rate": ["30%@0", "50%@90%"], "mask_rate_curve": "step"},
}
OTHER_NAMES = {"mask_rate": "rate_schedule", "mask_rate_curve": "rate_curve"}  # of the rules
# where there is no GPU, `use_cpu: false` computes on the CPU, too
MACHINE = {
    **{"use_cpu": True, "tf32": True, "torch_compile": True, "torch_compile_backend": "aot_eager"},
    **{"torch_compile_mode": "max-autotune-no-cudagraphs"},
}
PACKED = {"packed_attention": True}
EARLIER_NAMES = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"every_n_layers": 2}}


UNEQUAL = [{"sequence": "MKV" * length} for length in (1, 3, 5)]


class Watched(HookedTrainer):
    """Notes what the updates of a run do."""

    def __init__(self, *args, **kwargs):
        self.seen = SimpleNamespace(norms=[], strengths=[], shares=[], loss_weights=[], noiser_updates=[], batches=[])
        super().__init__(*args, **kwargs)
        watched = self

        class Norms(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
                watched.seen.neftune = getattr(model.get_input_embeddings(), "neftune_noise_alpha", None)
                networks = (watched.model, watched.noiser)
                watched.seen.norms.append([norm_of(network) for network in networks])

        self.add_callback(Norms())

    def corrupt(self, *args, **kwargs):
        self.seen.shares.append(self.game._adversarial_share(self.state.global_step))
        return super().corrupt(*args, **kwargs)

    def read(self, *args, reversal=None, **kwargs):
        self.seen.strengths.append(reversal)
        return super().read(*args, reversal=reversal, **kwargs)

    def update_noiser(self, update, *others):
        dropout = any(module.training for module in self.model.modules() if isinstance(module, torch.nn.Dropout))
        self.seen.noiser_updates.append((self.state.global_step, update, dropout))
        super().update_noiser(update, *others)

    def get_batch_samples(self, *args):
        batches, items = super().get_batch_samples(*args)
        self.seen.batches.append([len(batch["row"]) for batch in batches])
        return batches, items


def norm_of(network) -> float:
    gradients = [] if network is None else [p.grad.norm() for p in network.parameters() if p.grad is not None]
    return torch.stack(gradients).norm().item() if gradients else 0.0


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("resumed")


@pytest.fixture(scope="module")
def make_trainer(directory, tokenizer, make_encoder, make_noiser, proteins):
    """A trainer of tiny networks on 20 proteins, of which 18 fill whole batches of 6."""
    dataset = datasets.Dataset.from_dict({"id": [str(i) for i in range(20)], "sequence": proteins[:400:20]})
    make = functools.partial(build_trainer, directory, tokenizer, make_encoder, make_noiser, dataset)
    return functools.partial(make, cls=Watched, dropout=0.1, logging_steps=1)


def resume(make_trainer, base: dict, changed: dict, stop: int):
    """Make a checkpoint after two updates, and resume it with other options."""
    saving = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(**{"max_steps": 2, **base}, **saving).train()
    trainer = make_trainer(**{**base, **changed})
    trainer.add_callback(StopAt(stop))
    trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")
    assert trainer.state.global_step == stop
    trainer.seen.log = [entry for entry in log_of(trainer) if "loss" in entry]
    return trainer


@pytest.fixture(scope="module")
def one_backward(make_trainer):
    with pytest.MonkeyPatch.context() as patch:
        weights, real = [], noiser_game.loss_weights
        patch.setattr(noiser_game, "loss_weights", lambda *args: weights.append(args[3:]) or real(*args))
        trainer = resume(make_trainer, {"folder": "one_backward"}, ONE_BACKWARD, UPDATES)
    trainer.seen.loss_weights = weights[-1]
    return trainer


@pytest.fixture(scope="module")
def alternating(make_trainer):
    base = {"folder": "alternating", "noiser_reward": "reducible"}
    return resume(make_trainer, base, {"max_steps": 4, **ALTERNATING}, 4)


@pytest.fixture(scope="module")
def epochs(make_trainer):
    return resume(make_trainer, {"folder": "epochs"}, EPOCHS, 4)


@pytest.fixture(scope="module")
def machine(make_trainer):
    """A run whose device, precision and compiler change. What is asked of the last two is noted, and not done."""
    with pytest.MonkeyPatch.context() as patch:
        compiled, tf32 = [], []
        patch.setattr(torch, "compile", lambda module, **options: compiled.append(options) or module)
        patch.setattr(training_args, "is_torch_tf32_available", lambda: True)
        patch.setattr(training_args, "enable_tf32", lambda enable: None)
        patch.setattr(precision, "set_tf32", tf32.append)
        trainer = resume(make_trainer, {"folder": "machine", "use_cpu": False}, {"max_steps": 3, **MACHINE}, 3)
    trainer.seen.compiled, trainer.seen.tf32 = compiled, tf32
    return trainer


@pytest.fixture(scope="module")
def packed(make_trainer):
    with pytest.MonkeyPatch.context() as patch:
        rows, real = [], noiser_game.read_packed
        patch.setattr(packed_attention, "_missing_kernel", lambda device: None)
        patch.setattr(
            noiser_game, "read_packed", lambda *args, **inputs: rows.append(args[1]) or real(*args, **inputs)
        )
        library = with_cpu_kernels()
        try:
            base = {"folder": "packed", "dropout": 0.0, "packed_attention": False}
            trainer = resume(make_trainer, base, {"max_steps": 3, **PACKED}, 3)
        finally:
            library._destroy()
    trainer.seen.packed = rows
    return trainer


@pytest.fixture(scope="module")
def earlier_names(make_trainer):
    return resume(make_trainer, {"folder": "earlier_names"}, {"max_steps": 3, **EARLIER_NAMES}, 3)


@pytest.fixture(scope="module")
def masks(directory, proteins):
    """A run of a recipe. All rules of its masks come from the recipe."""
    fasta, recipe = directory / "train.fasta", directory / "recipe.yaml"
    fasta.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(proteins[:20])))
    recipe.write_text(f"train_data: {fasta}\noutput_dir: {directory}/masks\npreset: blind\nreport_to: none\n")
    words = ["--encoder", "tiny", "--noiser", "tiny", "--max_length", "64", "--per_device_train_batch_size", "4"]
    words += [
        "--use_cpu",
        "true",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        "--logging_steps",
        "1",
        "--disable_tqdm",
        "true",
    ]
    words += ["--cache_dir", str(directory / "cache"), "--noiser_reward", "loss"]
    pretrain(parse_recipe([str(recipe), *words, "--max_steps", "2"]))
    words = ["--max_steps", "3", "--resume_from_checkpoint", "latest"]
    for name, value in MASKS.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    trainer = pretrain(parse_recipe([str(directory / "masks" / "recipe.yaml"), *words]))
    trainer.seen = SimpleNamespace(log=[entry for entry in log_of(trainer) if "loss" in entry])
    return trainer


@pytest.fixture(scope="module")
def spans(make_trainer):
    base = {"folder": "spans", "masking": "random"}
    rules = [{"masking": "span", "span_length": length} for length in (2.0, 9.0)]
    return resume(make_trainer, {**base, "masking_rules": rules[0]}, {"max_steps": 3, "masking_rules": rules[1]}, 3)


@pytest.fixture(scope="module")
def weighted(make_trainer, proteins):
    base = {"folder": "weighted", "masking": "random"}
    rules = [
        {"masking": "weighted", "mask_weights": {str(i): [1.0] * (len(protein) - 1) + [last] for i, protein in named}}
        for named, last in ((list(enumerate(proteins[:400:20])), last) for last in (1.0, 0.0))
    ]
    return resume(make_trainer, {**base, "masking_rules": rules[0]}, {"max_steps": 3, "masking_rules": rules[1]}, 3)


@pytest.fixture(scope="module")
def chosen(make_trainer, make_noiser, tokenizer):
    def collator(share):
        noiser = make_noiser(view="blind")
        return DataCollatorForChosenProteinsMLM(tokenizer, noiser, max_length=64, protein_share=share)

    base = {"folder": "chosen", "collator": collator(0.5), "noiser_update": "none"}
    return resume(make_trainer, base, {"max_steps": 3, "collator": collator(0.75)}, 3)


@pytest.fixture(scope="module")
def taught(make_trainer):
    base = {"folder": "taught", "masking": "random", "loss_weights": "learnability", "teacher": "ema"}
    changed = {"learnability_share": 0.25, "soft_targets": ["0.5@0", "0.1@100%"], "teacher_decay": 0.25}
    return resume(make_trainer, base, {"max_steps": 4, **changed}, 4)


@pytest.fixture(scope="module")
def referred(make_trainer, directory, make_encoder, tokenizer):
    make_encoder(seed=5).save_pretrained(directory / "reference")
    tokenizer.save_pretrained(directory / "reference")
    base = {"folder": "referred", "masking": "random", "soft_targets": ["0.5"], "teacher": "ema"}
    changed = {"loss_weights": "learnability", "teacher": None, "reference_model": str(directory / "reference")}
    return resume(make_trainer, base, {"max_steps": 3, **changed}, 3)


# ---- what each option does ----


def of_group(name, index=0):
    return lambda trainer: trainer.optimizer.param_groups[index][name]


def schedule(step: int) -> float:
    """Warm-up over 3 of 7 updates, and then two cycles of a cosine."""
    if step < 3:
        return step / 3
    return 0.5 * (1 + math.cos(math.pi * (2 * (step - 3) / (UPDATES - 3) % 1)))


def rates(trainer):
    return [entry["learning_rate"] for entry in trainer.seen.log if entry["step"] > 2]


def noiser_rates(trainer):
    return [entry["noiser_learning_rate"] for entry in trainer.seen.log if entry["step"] > 2]


RATES = pytest.approx([LEARNING_RATE * schedule(step) for step in range(2, UPDATES)])
NOISER_RATES = pytest.approx([NOISER_RATE * schedule(step) * step / 8 for step in range(2, UPDATES)])

# of the two layers, the first is checkpointed
CHECKPOINTED = (lambda t: [layer.gradient_checkpointing for layer in t.model.bert.encoder.layer], [True, False])

# name of an option → what shows it in a resumed run, and what is shown if it took effect
PROBES = {
    "one_backward": {
        "learning_rate": (rates, RATES),
        "noiser_learning_rate": (noiser_rates, NOISER_RATES),
        **{name: (rates, RATES) for name in ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps")},
        "noiser_learning_rate_factor": (noiser_rates, NOISER_RATES),
        "weight_decay": (of_group("weight_decay"), 0.3),
        "noiser_weight_decay": (of_group("weight_decay", 2), 0.4),
        "adam_beta1": (lambda t: [group["betas"][0] for group in t.optimizer.param_groups], [0.8] * 4),
        "adam_beta2": (lambda t: [group["betas"][1] for group in t.optimizer.param_groups], [0.9] * 4),
        "adam_epsilon": (of_group("eps", 3), 1e-4),
        "max_grad_norm": (lambda t: t.seen.norms[0][0], pytest.approx(1e-3, rel=1e-2)),
        "noiser_max_grad_norm": (lambda t: t.seen.norms[0][1], pytest.approx(1e-5, rel=1e-2)),
        "adversarial_share": (lambda t: set(t.seen.shares), {0.5}),
        "loss_scope": (lambda t: t.seen.loss_weights[1], 0.5),  # 0 with the old scope
        "unmasked_weight": (lambda t: t.seen.loss_weights[1], 0.5),
        "importance_exponent": (lambda t: t.seen.loss_weights[0], 0.25),
        "neftune_noise_alpha": (lambda t: t.seen.neftune, 3.0),
        "noiser_update": (lambda t: t.seen.noiser_updates, []),
        "noiser_every": (lambda t: [norm > 0 for _, norm in t.seen.norms], [True, False, True, False, True]),
        "reversal_strength": (lambda t: set(t.seen.strengths), {0.125, None}),
        "noiser_reward": (lambda t: type(t.game.reward).__name__, "CreditReward"),
        "quick_cpu_dropout": (lambda t: type(t.game.quick_dropout()).__name__, "nullcontext"),
        "chunk_overhead": (lambda t: len(t.game.chunks(t.data_collator(UNEQUAL))), len(UNEQUAL)),
        "bf16": (lambda t: t.accelerator.mixed_precision, "bf16"),
    },
    "alternating": {
        "slow_encoder_decay": (lambda t: t.game.reward.decay, 0.5),
        "encoder_dropout_in_noiser_phase": (lambda t: {dropout for *_, dropout in t.seen.noiser_updates}, {True}),
        # three updates of the noiser, one of the encoder; with one counter, two of the noiser then end at six
        **{
            name: (lambda t: [seen[:2] for seen in t.seen.noiser_updates], [(2, 5), (2, 6), (3, 7), (3, 8)])
            for name in ("noiser_steps", "encoder_steps", "shared_phase_counter")
        },
        "per_device_train_batch_size": (lambda t: t.seen.batches, [[3, 3], [3, 3]]),
        "gradient_accumulation_steps": (lambda t: t.seen.batches, [[3, 3], [3, 3]]),
        "dataloader_drop_last": (lambda t: len(t.get_train_dataloader()), 6),
        **dict.fromkeys(("activation_checkpointing", "activation_checkpointing_kwargs"), CHECKPOINTED),
    },
    "earlier_names": dict.fromkeys(EARLIER_NAMES, CHECKPOINTED),
    "machine": {
        # the states of the checkpoint are on the device of this run
        "use_cpu": (
            lambda t: {v.device.type for state in t.optimizer.state.values() for v in state.values()},
            {"cpu"},
        ),
        "tf32": (lambda t: t.seen.tf32, [True]),
        "torch_compile": (lambda t: len(t.seen.compiled) > 0, True),
        "torch_compile_backend": (lambda t: {options["backend"] for options in t.seen.compiled}, {"aot_eager"}),
        "torch_compile_mode": (
            lambda t: {options["mode"] for options in t.seen.compiled},
            {"max-autotune-no-cudagraphs"},
        ),
    },
    "packed": {"packed_attention": (lambda t: len(t.seen.packed) > 0, True)},
    "epochs": {
        "num_train_epochs": (lambda t: t.state.max_steps, 6),
        "global_batch_size": (lambda t: t.seen.batches, [[4], [4, 4]]),  # the third update ends an epoch of 20
        # three rows of 32 tokens
        "tokens_per_micro_batch": (
            lambda t: len(t.game.micro_batches.parts([t.data_collator(list(t.train_dataset)[:3])])),
            3,
        ),
    },
    "masks": {
        **{
            name: (lambda t, name=name: getattr(t.data_collator.rules, OTHER_NAMES.get(name, name)), value)
            for name, value in {
                **MASKS,
                **{"mask_options": (1.0, 0.0, 0.0), "mask_rate": tuple(MASKS["mask_rate"])},
            }.items()
            if name != "max_length"
        },
        "max_length": (lambda t: t.data_collator.sequence_encoder.max_length, 24),
    },
    "taught": {
        "learnability_share": (lambda t: t.game.teacher.args.learnability_share, 0.25),
        "soft_targets": (lambda t: t.seen.log[-1]["soft_target_share"], pytest.approx(0.2)),
        "teacher_decay": (lambda t: t.game.teacher.args.teacher_decay, 0.25),
    },
    "referred": {
        "loss_weights": (lambda t: t.game.teacher.args.loss_weights, "learnability"),
        **{
            name: (lambda t: t.game.teacher.network.name_or_path.rpartition("/")[2], "reference")
            for name in ("teacher", "reference_model")
        },
    },
    "chosen": {"protein_share": (lambda t: t.seen.batches, [[3]])},  # of four that are read
    "spans": {"span_length": (lambda t: t.game.rules_at(2).mean_span_length, 9.0)},
    "weighted": {
        name: (lambda t: t.data_collator.sequence_encoder.mask_inputs.weights.get("3")[-1], 0.0)
        for name in ("mask_weights", "mask_weights_column")  # which only says where they are in the file
    },
}


@pytest.mark.parametrize(("run", "option"), [(run, option) for run, probes in PROBES.items() for option in probes])
def test_a_changed_option_takes_effect(request, run, option):
    probe, expected = PROBES[run][option]
    assert probe(request.getfixturevalue(run)) == expected


def test_every_option_that_matters_for_training_has_a_probe():
    effects = (Effect.TAKES_EFFECT, Effect.WARNS)
    known = {name for rule in RULES if rule.effect in effects and rule.trains for name in rule.options}
    assert {option for probes in PROBES.values() for option in probes} == known
