"""Training on packed rows gives the run of padded ones."""

import json

import datasets
import pytest
import torch
from transformers import AutoModelForMaskedLM

from adversarial_mlm.training import packed_attention
from tests.helpers.exhaustive import exhaustive
from tests.helpers.hooked_trainer import HookedTrainer
from tests.helpers.packed_kernels import with_cpu_kernels
from tests.helpers.trainer_helpers import largest_difference, log_of, parameters_of

BLIND = {"noiser_config": {"view": "blind"}, "masking_rules": {"sampler": "gumbel_topk", "learned_options": False}}
RUNS = {
    "random": {"masking": "random"},
    "taught": {"masking": "random", "teacher": "ema", "loss_weights": "learnability", "soft_targets": ["0.5"]},
    "paper": {},
    "paper, accumulated, in chunks": {"gradient_accumulation_steps": 2, "chunk_overhead": 30},
    "paper by reversal": {"noiser_update": "reversal"},
    "blind": {**BLIND, "noiser_update": "reversal", "noiser_reward": "credit"},
    "all residues": {"loss_scope": "all", "unmasked_weight": 0.3, "importance_exponent": 1.0},
    "literal": {"masking_rules": {"selection": "threshold", "gated": False}},
    "reducible": {"noiser_reward": "reducible"},
}
USUAL = ("taught", "paper, accumulated, in chunks", "blind", "reducible")  # one of each kind


@pytest.fixture
def with_kernels(monkeypatch):
    """Kernels on a CPU, also for float64."""
    monkeypatch.setattr(packed_attention, "_FLASH_DTYPES", (torch.float64, torch.bfloat16))
    monkeypatch.setattr(packed_attention, "_missing_kernel", lambda device: None)
    library = with_cpu_kernels()
    yield
    library._destroy()


@pytest.fixture
def dataset(proteins):
    return datasets.Dataset.from_dict({"sequence": [p[: 20 + 7 * i % 40] for i, p in enumerate(proteins[:40])]})


class Seen(HookedTrainer):
    """Notes what the encoder is given, and all masks."""

    def __init__(self, *args, **kwargs):
        self.shapes, self.masks = [], []
        super().__init__(*args, **kwargs)
        self.model.register_forward_pre_hook(
            lambda module, args, inputs: (
                self.shapes.append(
                    tuple(inputs["input_ids" if inputs.get("input_ids") is not None else "inputs_embeds"].shape[:2])
                )
                if self.is_in_train
                else None
            ),
            with_kwargs=True,
        )

    def corrupt(self, inputs, *args, **kwargs):
        corrupted = super().corrupt(inputs, *args, **kwargs)
        self.masks += [tuple(row[row > 0].tolist()) for row in corrupted.input_ids]
        return corrupted


@pytest.mark.parametrize("run", [*USUAL, *(exhaustive(run) for run in RUNS if run not in USUAL)])
def test_the_run_is_that_of_padded_rows(make_trainer, with_kernels, run):
    settings = {"masking": "adversarial", "double": True, "max_steps": 3, "noiser_cosine_steps": 0, **RUNS[run]}
    masking = settings.pop("masking")
    padded = make_trainer(masking, "padded", cls=Seen, packed_attention=False, **{**settings, "chunk_overhead": 10**9})
    packed = make_trainer(masking, "packed", cls=Seen, **settings)  # by default, where there are kernels
    for trainer in (padded, packed):
        trainer.train()
    assert sorted(packed.masks) == sorted(padded.masks)  # chunks have another order of the rows
    assert largest_difference(parameters_of(packed), parameters_of(padded)) < 1e-10
    for a, b in zip(log_of(packed), log_of(padded), strict=True):
        for key in ("loss", "grad_norm", "noiser_reward", "noiser_grad_norm", "mask_rate", "gap", "learnability"):
            assert a.get(key, 0) == pytest.approx(b.get(key, 0), rel=1e-6, abs=1e-9)
    # one row each, and no token of padding; a slow copy of the encoder and a teacher read padded rows
    own = [(rows, columns) for rows, columns in packed.shapes if rows == 1 or run not in ("reducible", "taught")]
    assert {rows for rows, _ in own} == {1} != {rows for rows, _ in padded.shapes}
    assert sum(columns for _, columns in packed.shapes) < sum(rows * columns for rows, columns in padded.shapes)


def test_evaluation_reads_padded_rows_in_chunks_with_the_same_figures(make_trainer, with_kernels):
    padded, packed = (
        make_trainer(folder=str(on), double=True, packed_attention=on).evaluate() for on in (False, True)
    )
    for name in padded:
        if not name.endswith(("runtime", "per_second")):
            assert packed[name] == pytest.approx(padded[name], rel=1e-9)


def test_what_is_saved_knows_nothing_of_it(make_trainer, with_kernels):
    trainer = make_trainer(packed_attention=True, max_steps=1)
    trainer.train()
    trainer.save_model()
    with open(f"{trainer.args.output_dir}/config.json") as file:
        assert "packed" not in json.dumps(json.load(file))
    again = AutoModelForMaskedLM.from_pretrained(trainer.args.output_dir)
    assert again.config._attn_implementation == "sdpa"
    assert torch.equal(
        again.bert.embeddings.word_embeddings.weight, trainer.model.bert.embeddings.word_embeddings.weight
    )


def test_on_a_cpu_it_is_refused(make_trainer):
    with pytest.raises(ValueError, match="packed_attention is not supported here: a CPU has no attention kernel"):
        make_trainer(packed_attention=True)


def test_with_checkpointed_activations_it_is_refused_and_not_the_default(make_trainer, with_kernels):
    with pytest.raises(ValueError, match="packed_attention cannot be combined with activation_checkpointing"):
        make_trainer(packed_attention=True, activation_checkpointing=True)
    assert not make_trainer(activation_checkpointing=True).game.packs


def test_the_default_is_packed_where_there_are_kernels(make_trainer, with_kernels):
    assert make_trainer(bf16=True).game.packs
    assert not make_trainer(folder="asked", packed_attention=False).game.packs


def test_on_a_cpu_the_default_is_padding(make_trainer):
    trainer = make_trainer()
    assert not trainer.game.packs and trainer.model.config._attn_implementation == "sdpa"
