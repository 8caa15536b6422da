"""`NoiserGame` and `DataPosition`, built without a trainer."""

import logging

import datasets
import pytest
import torch
from accelerate import Accelerator

from adversarial_mlm import AdversarialMLMTrainingArguments, DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, NOISER_PHASE, row_keys
from adversarial_mlm.training.cpu_dropout import QuickDropout
from adversarial_mlm.training.data_position import DataPosition
from adversarial_mlm.training.noiser_game import NoiserGame
from adversarial_mlm.training.noiser_schedule import Alternation
from adversarial_mlm.training.optimizer import add_groups
from adversarial_mlm.training.update_guard import NOISER, UpdateGuard


@pytest.fixture
def make_args(tmp_path):
    def make(**settings):
        settings = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": [], "max_steps": 8, **settings}
        return AdversarialMLMTrainingArguments(**settings)

    return make


@pytest.fixture
def make_game(make_args, make_encoder, make_noiser, tokenizer, proteins):
    """A game, and a batch of four proteins with rows."""

    def make(masking="adversarial", **settings):
        noiser = make_noiser() if masking == "adversarial" else None
        if noiser is None:
            collator = DataCollatorForRandomMLM(tokenizer, random_rate=0.2, max_length=40)
        else:
            collator = DataCollatorForAdversarialMLM(tokenizer, noiser=noiser, max_length=40)
        game = NoiserGame(make_encoder(), noiser, collator, make_args(**settings), Accelerator(cpu=True))
        game.prepare(lambda: None)
        batch = collator([{"sequence": protein} for protein in proteins[:4]])
        return game, {**batch, "row": torch.arange(4)}

    return make


def keys_of(batch) -> torch.Tensor:
    return row_keys(0, ENCODER_PHASE, 0, batch["row"])


def test_without_a_noiser_all_masks_are_random_and_nothing_learns(make_game):
    game, batch = make_game("random")
    corrupted = game.corrupt(batch, keys_of(batch), step=0)
    assert corrupted.random.any() and not corrupted.adversarial.any()
    assert not game.is_trained(0) and not game.shares_backward(0)
    assert game.clip_shared_gradient() is None


def test_what_an_update_counts_is_the_number_of_its_masks(make_game):
    game, batch = make_game()
    masks = game.corrupt(batch, keys_of(batch), step=0).masked.sum()
    assert game.count_items([batch]) == masks and game.count_items([batch, batch]) == 2 * masks
    assert game.count_items([]) is None
    whole, _ = make_game(loss_scope="all", unmasked_weight=0.5)
    residues = batch["residue_mask"].sum()
    assert whole.count_items([batch]) == masks + 0.5 * (residues - masks)


def test_the_losses_that_are_read_are_those_of_the_masked_residues(make_game):
    game, batch = make_game()
    game.encoder.eval()
    corrupted = game.corrupt(batch, keys_of(batch), step=0)
    outputs, losses, weights = game.read(game.encoder, corrupted, batch)
    expected = torch.nn.functional.cross_entropy(
        outputs.logits.transpose(1, 2), corrupted.labels, reduction="none", ignore_index=-100
    )
    torch.testing.assert_close(losses, expected)
    assert torch.equal(weights > 0, corrupted.masked)


@pytest.mark.parametrize("reward", ["loss", "credit"])
def test_an_update_climbs_the_reward_and_leaves_the_encoder_alone(make_game, reward):
    game, batch = make_game(noiser_reward=reward, noiser_max_grad_norm=0.0)
    optimizer = torch.optim.SGD(game.encoder.parameters(), lr=0.0)
    add_groups(optimizer, game.noiser, set(), learning_rate=1e-3, weight_decay=0.0)
    optimizer = game.accelerator.prepare_optimizer(optimizer)
    encoder = {name: value.clone() for name, value in game.encoder.state_dict().items()}
    noiser = {name: value.detach().clone() for name, value in game.noiser.named_parameters()}
    guard = UpdateGuard(limit=3)
    items = game.count_items([batch])
    with game.noiser_phase(0):
        reward_before = game.noiser_reward(
            batch, row_keys(game.args.seed, NOISER_PHASE, 0, batch["row"]), items, step=0
        )
        gradient = torch.autograd.grad(reward_before, list(game.noiser.parameters()))
        game.update_noiser(0, [batch], 0, optimizer, guard)
    assert all(torch.equal(value, encoder[name]) for name, value in game.encoder.state_dict().items())
    moves = [p.detach() - noiser[name] for name, p in game.noiser.named_parameters()]
    climbed = sum((move * slope).sum() for move, slope in zip(moves, gradient, strict=True))
    length = sum(move.pow(2).sum() for move in moves).sqrt() * sum(slope.pow(2).sum() for slope in gradient).sqrt()
    assert climbed > 0.9 * length > 0
    assert all(parameter.grad is None for parameter in game.noiser.parameters())
    assert not game.noiser.training and guard.look() == {NOISER: (1, 0)}
    assert game.figures.read(lambda sums: sums).keys() == {"noiser_reward", "noiser_grad_norm"}


def test_an_update_that_is_not_finite_moves_nothing_and_is_counted(make_game):
    game, batch = make_game()
    optimizer = torch.optim.SGD(game.noiser.parameters(), lr=1.0)
    before = {name: value.clone() for name, value in game.noiser.state_dict().items()}
    guard = UpdateGuard(limit=3)
    with torch.no_grad():
        game.encoder.cls.predictions.bias[7] = torch.inf
    with game.noiser_phase(0):
        game.update_noiser(0, [batch], 0, game.accelerator.prepare_optimizer(optimizer), guard)
    assert all(torch.equal(value, before[name]) for name, value in game.noiser.state_dict().items())
    assert guard.look() == {NOISER: (1, 1)}


def test_the_noiser_shares_backward_at_every_so_many_steps_while_it_has_a_share(make_game):
    game, _ = make_game(noiser_update="reversal", noiser_every=3, adversarial_share=["0@2", "1@3"])
    assert [game.shares_backward(step) for step in range(8)] == [False, False, False, True, False, False, True, False]
    assert [game.is_trained(step) for step in range(5)] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("settings", "quick"),
    [
        ({}, True),
        ({"quick_cpu_dropout": False}, False),
        ({"torch_compile": True}, False),
        ({"activation_checkpointing": True}, False),
    ],
)
def test_quick_dropout_is_an_option_that_compilation_and_checkpointing_rule_out(make_game, settings, quick):
    compiled = {name: value for name, value in settings.items() if name == "torch_compile"}
    game, _ = make_game(**{name: value for name, value in settings.items() if name not in compiled})
    game.args.torch_compile = bool(compiled)
    if settings.get("activation_checkpointing"):
        game.encoder.gradient_checkpointing_enable()
    assert isinstance(game.quick_dropout(), QuickDropout) is quick


# ---- position in the data ----


@pytest.fixture
def dataset():
    return datasets.Dataset.from_dict({"sequence": ["ACDEFGHIKL"] * 40})


def test_a_pass_begins_at_any_update_and_reads_what_is_left_of_its_epoch(make_args, dataset):
    position = DataPosition(
        make_args(per_device_train_batch_size=4, global_batch_size=["8"]), dataset, world=2, rank=1
    )
    assert [stage.size for stage in position.stages] == [1]
    straight = list(position.batches) if position.begin_pass(0) else []
    rest = position.begin_pass(3)
    assert rest.updates == len(straight) - 3 and list(position.batches) == straight[3:]
    assert position.epochs_after(5) == 1.0 and position.epochs_after(6) == 1.2


def test_processes_read_disjoint_batches_of_one_order(make_args, dataset):
    args = make_args(per_device_train_batch_size=4)
    batches = []
    for rank in range(2):
        position = DataPosition(args, dataset, world=2, rank=rank)
        position.begin_pass(0)
        batches.append([record for batch in position.batches for record in batch])
    assert len({key[-1] if isinstance(key, tuple) else key for records in batches for key in records}) == 40


def test_a_checkpoint_that_read_other_data_is_warned_of(make_args, dataset, caplog):
    position = DataPosition(make_args(per_device_train_batch_size=4), dataset, world=1, rank=0)
    with caplog.at_level(logging.WARNING):
        position.warn_if_elsewhere(0.5, updates=5)
        assert not caplog.messages
        position.warn_if_elsewhere(0.7, updates=5)
    assert "had read 0.7000 epochs in 5 updates" in caplog.messages[0]


def test_stages_of_the_noiser_begin_with_its_own_updates(make_args, dataset):
    args = make_args(per_device_train_batch_size=4, global_batch_size=["4@0", "8@4"])
    position = DataPosition(args, dataset, world=1, rank=0)
    alternation = Alternation(noiser_steps=3, encoder_steps=2)
    assert [(s.first_update, s.size) for s in position.noiser_stages(alternation)] == [(0, 1), (6, 2)]
    assert [position.noiser_micro_steps(update, alternation) for update in (0, 6, 8)] == [0, 6, 10]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ignore_data_skip": True}, "ignore_data_skip is not supported"),
        ({"global_batch_size": ["6"]}, "global_batch_size is 6, but must be a multiple of 4"),
    ],
)
def test_a_position_that_cannot_be_kept_is_refused(make_args, dataset, settings, message):
    with pytest.raises(ValueError, match=message):
        DataPosition(make_args(per_device_train_batch_size=4, **settings), dataset, world=1, rank=0)
