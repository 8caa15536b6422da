"""`masking: chosen_proteins`: which proteins an update trains on, and how the noiser learns to choose them."""

import copy

import datasets
import pytest
import torch
from torch.nn import functional as F

from adversarial_mlm import DataCollatorForChosenProteinsMLM, DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.protein_choice import choose_proteins
from adversarial_mlm.utils.errors import AdversarialMLMError
from tests.helpers.hooked_trainer import HookedTrainer
from tests.helpers.trainer_helpers import check_resumption, largest_difference, log_of, parameters_of

LEARNING = {"noiser_update": "reversal", "noiser_reward": "learnability", "teacher": "ema", "teacher_decay": 0.6}
STEPS, RATE = 4, 0.2


@pytest.fixture
def make(make_trainer, make_noiser, tokenizer):
    """A trainer whose noiser, with random weights, prefers some proteins."""

    def make(protein_share=0.5, double=False, mask_rate="40%", **settings):
        noiser = make_noiser(view="blind")
        collator = DataCollatorForChosenProteinsMLM(
            tokenizer, noiser.double() if double else noiser, max_length=64, protein_share=protein_share,
            mask_rate=mask_rate,
        )  # fmt: skip
        return make_trainer(collator=collator, double=double, **{**LEARNING, **settings})

    return make


class Recorder(HookedTrainer):
    """Keeps what every update read, and what it trained on."""

    def __init__(self, *args, **kwargs):
        self.was_read, self.kept = [], []
        super().__init__(*args, **kwargs)
        choose = self.game.chosen_proteins

        def recorded(batches, step):
            self.was_read.append(copy.deepcopy(batches))
            self.kept.append(choose(batches, step))
            return self.kept[-1]

        self.game.chosen_proteins = recorded


def largest_change(before, after):
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return max((one - other).abs().max().item() for one, other in pairs)


def rows_of(batches):
    return sorted(row for batch in batches for row in batch["row"].tolist())


def plain_choice(collator, batch, keys, number):
    """What the noiser predicts for each protein, one at a time, and the draw."""
    learnable = []
    for row in range(len(keys)):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        masked = collator.corrupt(alone, keys[row : row + 1]).masked[0]
        ids = alone["input_ids"][0].where(~masked, collator.vocabulary.mask_token_id)
        ids = ids[alone["attention_mask"][0].bool()]
        scores = collator.noiser(ids[None]).any_mask_scores[0]
        learnable.append(scores[masked[: len(ids)]].mean().exp())
    return choose_proteins(keys, torch.stack(learnable), number)


@torch.no_grad()
def chosen_of(trainer, step):
    (batch,) = trainer.was_read[step]
    keys = row_keys(trainer.args.seed, ENCODER_PHASE, step, batch["row"])
    return batch, keys, plain_choice(trainer.data_collator, batch, keys, 3)


def test_an_update_is_that_of_a_plain_loop_over_the_chosen_proteins(make):
    settings = {"optim": "sgd", "learning_rate": RATE, "weight_decay": 0.0, "max_grad_norm": 0.0, "warmup_steps": 0}
    settings |= {"lr_scheduler_type": "constant", "per_device_train_batch_size": 6, "max_steps": STEPS}
    trainer = make(double=True, cls=Recorder, noiser_update="none", noiser_reward="loss", teacher=None,
                   teacher_decay=0.999, **settings)  # fmt: skip
    encoder, collator = copy.deepcopy(trainer.model), trainer.data_collator
    trainer.train()
    chosen_rows = []
    for step in range(STEPS):
        batch, keys, chosen = chosen_of(trainer, step)
        assert chosen.sum() == 3 and rows_of(trainer.kept[step]) == batch["row"][chosen].tolist()
        chosen_rows += batch["row"][chosen].tolist()
        masks = collator.corrupt(batch, keys)
        logits = encoder(input_ids=masks.input_ids, attention_mask=batch["attention_mask"]).logits
        counted = masks.masked & chosen[:, None]
        encoder.zero_grad()
        F.cross_entropy(logits[counted], batch["input_ids"][counted]).backward()
        with torch.no_grad():
            for parameter in encoder.parameters():
                if parameter.grad is not None:
                    parameter -= RATE * parameter.grad
    trained = dict(trainer.model.named_parameters())
    assert max((value - trained[name]).abs().max() for name, value in encoder.named_parameters()) < 1e-12
    assert len(set(chosen_rows)) > 3  # not always the same rows


def test_the_noiser_climbs_the_likelihood_of_what_can_be_learned(make):
    settings = {"optim": "sgd", "noiser_learning_rate": 1.0, "noiser_weight_decay": 0.0, "noiser_max_grad_norm": 0.0}
    settings |= {"learning_rate": 0.1, "lr_scheduler_type": "constant", "warmup_steps": 0, "logging_steps": 1}
    trainer = make(double=True, per_device_train_batch_size=6, max_steps=3, noiser_every=2, cls=Recorder, **settings)
    collator, before = trainer.data_collator, []
    choose = trainer.game.chosen_proteins

    def remembering(batches, step):
        before.append((copy.deepcopy(trainer.model), copy.deepcopy(trainer.noiser)))
        return choose(batches, step)

    trainer.game.chosen_proteins = remembering
    trainer.train()
    step = 2  # the moving average differs from the encoder by then
    encoder, noiser = before[step]
    (batch,) = trainer.kept[step]
    teacher = copy.deepcopy(before[0][0])
    for one, _ in before[1 : step + 1]:
        for slow, fast in zip(teacher.parameters(), one.parameters(), strict=True):
            slow.data = 0.6 * slow.data + 0.4 * fast.data
    keys = row_keys(trainer.args.seed, ENCODER_PHASE, step, batch["row"])
    masks, ids = collator.corrupt(batch, keys), list(collator.vocabulary.replacement_ids)
    read = {"input_ids": masks.input_ids, "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        p, q = (torch.softmax(network(**read).logits[..., ids], dim=-1) for network in (teacher, encoder))
        kl = (p * (p / q).log()).sum(dim=-1)
    seen = batch["input_ids"].where(~masks.masked, collator.vocabulary.mask_token_id)
    scores = noiser(seen, batch["attention_mask"]).any_mask_scores
    number = masks.masked.sum(dim=1).double()
    log_r = torch.stack([scores[row][masked].mean() for row, masked in enumerate(masks.masked)])
    gain = torch.stack([kl[row][masked].sum() for row, masked in enumerate(masks.masked)])
    share = number * log_r.exp() / (number * log_r.exp()).sum()
    likelihood = (gain * share.log()).sum() / gain.sum()
    gradients = torch.autograd.grad(likelihood, list(noiser.parameters()), allow_unused=True)
    pairs = zip(noiser.parameters(), trainer.noiser.parameters(), gradients, strict=True)
    for start, end, gradient in pairs:
        climbed = start if gradient is None else start + gradient
        assert torch.allclose(climbed, end, rtol=1e-6, atol=1e-10)
    equal = (gain * (number / number.sum()).log()).sum() / gain.sum()
    logged = [entry["noiser_reward"] for entry in log_of(trainer) if "noiser_reward" in entry]
    assert logged[-1] == pytest.approx((likelihood - equal).item(), rel=1e-6)
    assert len(logged) == 2  # of three updates
    assert largest_change(before[1][1], before[2][1]) == 0 < largest_change(before[0][1], before[1][1])


@pytest.mark.parametrize(
    "settings",
    [{}, {"noiser_every": 2, "loss_weights": "learnability", "gradient_accumulation_steps": 2}],
    ids=["every update", "every second"],
)
def test_a_resumed_run_is_bitwise_the_same(make, settings):
    settings = {"max_steps": 6, "dropout": 0.1, "mask_rate": ["50%@0", "30%@100%"], **settings}
    check_resumption(lambda **options: make(**settings, **options), stops=(2, 3))


def test_a_resumed_run_on_a_stream_is_bitwise_the_same(make, dataset):
    settings = {"data": dataset.to_iterable_dataset(), "max_steps": 4, "gradient_accumulation_steps": 2}
    check_resumption(lambda **options: make(**settings, **options), stops=(2,))


def test_a_stream_in_the_order_of_the_file_chooses_what_one_micro_batch_chooses(make, dataset):
    settings = {"data": dataset.to_iterable_dataset(), "max_steps": 3, "double": True, "cls": Recorder}
    whole = make(per_device_train_batch_size=8, folder="whole", **settings)
    split = make(per_device_train_batch_size=2, gradient_accumulation_steps=4, folder="split", **settings)
    for trainer in (whole, split):
        trainer.train()
        assert [len(rows_of(kept)) for kept in trainer.kept] == [4, 4, 4]
    assert [rows_of(kept) for kept in split.kept] == [rows_of(kept) for kept in whole.kept]
    assert largest_difference(parameters_of(whole), parameters_of(split)) < 1e-10


def test_the_division_into_micro_batches_changes_nothing(make):
    settings = {"max_steps": 3, "double": True, "cls": Recorder, "protein_share": 0.25}
    whole = make(per_device_train_batch_size=12, folder="whole", **settings)
    split = make(per_device_train_batch_size=2, gradient_accumulation_steps=6, folder="split", **settings)
    tokens = make(per_device_train_batch_size=12, tokens_per_micro_batch=64, folder="tokens", **settings)
    for trainer in (whole, split, tokens):
        trainer.train()
        assert [rows_of(kept) for kept in trainer.kept] == [rows_of(kept) for kept in whole.kept]
        assert largest_difference(parameters_of(whole), parameters_of(trainer)) < 1e-10
    assert [len(rows_of(kept)) for kept in whole.kept] == [3, 3, 3]
    # some micro-batches have no protein, but never the last, after which gradients are summed
    assert all(len(kept[-1]["row"]) for kept in split.kept) and not all(len(b["row"]) for b in split.kept[0])


def test_a_process_without_a_chosen_protein_reads_one_that_counts_nothing(make):
    trainer = make(per_device_train_batch_size=4, cls=Recorder)
    trainer.train()
    (batch,) = trainer.was_read[0]
    choice = trainer.game._protein_choice()
    (alone,) = choice._cut([batch], kept=set())
    assert alone["row"].tolist() == [batch["row"][0].item()]
    assert alone["num_residues"].tolist() == [0] and not alone["residue_mask"].any()
    keys = row_keys(0, ENCODER_PHASE, 0, alone["row"])
    assert not trainer.data_collator.corrupt(alone, keys).masked.any()


def test_the_noiser_learns_from_which_proteins_there_is_most_to_learn(make, make_encoder, tokenizer, tmp_path):
    # the reference knows that in some proteins all residues are leucines, and nothing of the others
    letters = "ACDEFGHIKMNPQRSTVWY"
    draw = torch.Generator().manual_seed(1)
    others = ["".join(letters[i] for i in torch.randint(19, (40,), generator=draw)) for _ in range(24)]
    proteins = [protein for other in others for protein in (other, "L" * 40)]
    reference = make_encoder(seed=3)
    leucine = tokenizer.convert_tokens_to_ids("L")
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-2)
    collator = DataCollatorForRandomMLM(tokenizer, max_length=64)
    for step in range(60):
        batch = collator([{"sequence": protein} for protein in proteins[step % 8 :: 8]])
        masks = collator.corrupt(batch, row_keys(0, ENCODER_PHASE, step, torch.arange(len(batch["input_ids"]))))
        logits = reference(input_ids=masks.input_ids, attention_mask=batch["attention_mask"]).logits
        optimizer.zero_grad()
        F.cross_entropy(logits[masks.masked], batch["input_ids"][masks.masked]).backward()
        optimizer.step()
    reference.save_pretrained(tmp_path / "reference")
    tokenizer.save_pretrained(tmp_path / "reference")
    data = datasets.Dataset.from_dict({"sequence": proteins})
    # an encoder that does not change, so that there is always as much to learn
    trainer = make(
        data=data, cls=Recorder, max_steps=60, per_device_train_batch_size=8, learning_rate=0.0, weight_decay=0.0,
        noiser_learning_rate=0.03, lr_scheduler_type="constant", teacher="reference",
        teacher_decay=0.999, reference_model=str(tmp_path / "reference"), logging_steps=10,
    )  # fmt: skip
    torch.nn.init.zeros_(trainer.noiser.score.weight)
    torch.nn.init.zeros_(trainer.noiser.score.bias)
    trainer.train()

    def share_of_leucines(updates):
        known = [(batch["input_ids"] == leucine).any(dim=1) for kept in updates for batch in kept]
        return torch.cat(known).double().mean().item()

    log = [entry for entry in log_of(trainer) if "choice_lift" in entry]
    assert share_of_leucines(trainer.kept[-20:]) > 0.7 > 0.6 > share_of_leucines(trainer.kept[:5])
    assert log[-1]["choice_lift"] > 1.1 and log[-1]["noiser_reward"] > 0 and "adversarial_loss" not in log[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noiser_update": "alternate"}, "needs noiser_update: reversal, because the noiser learns from the encoder"),
        ({"noiser_reward": "credit", "teacher": None}, "needs noiser_reward: learnability, but it is credit"),
        ({"adversarial_share": ["0@0", "1@9"]}, "adversarial_share is 0@0 1@9, but with masking: chosen_proteins all"),
        ({"importance_exponent": 0.5}, "importance_exponent is 0.5, but with masking: chosen_proteins"),
        ({"reversal_strength": ["-1"]}, "reversal_strength is -1, but with masking: chosen_proteins"),
        ({"on_collapse": "stop"}, "on_collapse is stop, but with masking: chosen_proteins"),
        ({"teacher": None}, "noiser_reward: learnability needs a teacher: set reference_model, or teacher: ema"),
    ],
)
def test_options_without_effect_are_refused(make, settings, message):
    with pytest.raises(AdversarialMLMError, match=message):
        make(**({"teacher_decay": 0.999} if "teacher" in settings else {}), **settings)


def test_the_reward_of_proteins_is_refused_where_positions_are_chosen(make_trainer):
    with pytest.raises(AdversarialMLMError, match="learnability only has an effect with masking: chosen_proteins"):
        make_trainer(**LEARNING)
