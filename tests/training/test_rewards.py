import dataclasses
import itertools

import pytest
import torch

from adversarial_mlm import DataCollatorForAdversarialMLM
from adversarial_mlm.masking.corruption import CorruptedBatch, NoiserChoice
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.losses import token_losses
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.masking.sampling import gumbel_topk_marginals, logistic_topk_marginals
from adversarial_mlm.models.modeling_noiser import NoiserOutput
from adversarial_mlm.training.rewards import (
    REWARDS,
    CreditReward,
    PredictorReward,
    ReducibleReward,
    SurpriseReward,
)
from adversarial_mlm.training.slow_copy import follow_at_once
from tests.helpers.plain_algorithms import successive_law_of_sets


@pytest.fixture
def collator(tokenizer, make_noiser):
    return DataCollatorForAdversarialMLM(
        tokenizer, noiser=make_noiser(), max_length=64, sampler="logistic_topk", learned_options=False
    )


@pytest.fixture
def batch(collator, proteins):
    return collator([{"sequence": s} for s in proteins[:8]])


@pytest.fixture
def corrupted(collator, batch):
    return collator.corrupt(batch, row_keys(0, ENCODER_PHASE, 0, torch.arange(8)), differentiable=True)


def gradient_of(reward, corrupted, losses) -> torch.Tensor:
    """Of the any-mask scores, `(batch, length)`."""
    (gradient,) = torch.autograd.grad(
        reward.direct(corrupted, losses), corrupted.choice.scores.any_mask_scores, retain_graph=True
    )
    return gradient


def test_every_name_gives_a_reward_and_no_other(make_encoder):
    shares = lambda: torch.zeros(30)  # noqa: E731
    kinds = {type(reward.build(make_encoder(), shares, 0.9)) for reward in REWARDS.values()}
    assert kinds == set(REWARDS.values())
    with pytest.raises(ValueError, match="surprise needs the frequencies of the residues"):
        REWARDS["surprise"].build(make_encoder(), lambda: None, 0.9)


def test_every_reward_says_in_its_flags_what_it_needs(collator, corrupted, make_encoder):
    losses = torch.rand(corrupted.labels.shape)
    for reward in REWARDS.values():
        built = reward.build(make_encoder(), lambda: torch.zeros(30), 0.9)
        direct = built.direct(corrupted, losses)
        # all of it comes through the encoder, or is learned from whole updates
        assert (reward.through_encoder or reward.needs_teacher) == isinstance(direct, float)
        assert reward.has_slow_encoder == hasattr(built, "slow")
        assert reward.needs_background == hasattr(built, "log_shares")
        without = dataclasses.replace(corrupted.choice)
        without.probabilities = None
        try:
            built.direct(dataclasses.replace(corrupted, choice=without), losses)
        except AttributeError:
            assert reward.needs_mask_probability
        else:
            assert not reward.needs_mask_probability


def paid(corrupted, wanted: torch.Tensor, reward, losses) -> None:
    """The gradient must be that of `credit` for losses equal to what is wanted."""
    expected = gradient_of(CreditReward(), corrupted, torch.where(corrupted.masked, wanted, 0))
    assert torch.allclose(gradient_of(reward, corrupted, losses), expected, atol=1e-6) and expected.any()


def test_surprise_pays_what_the_place_adds_to_the_residues_own_surprise(corrupted):
    log_shares = torch.log(torch.linspace(0.01, 0.1, 30))
    losses = torch.rand(corrupted.labels.shape, generator=torch.Generator().manual_seed(0))
    paid(corrupted, losses + log_shares[corrupted.labels.clamp_min(0)], SurpriseReward(log_shares), losses)
    # where every loss is the background's, no place is better than another
    background = -log_shares[corrupted.labels.clamp_min(0)]
    assert gradient_of(SurpriseReward(log_shares), corrupted, background).abs().max() < 1e-6


def test_surprise_survives_a_share_of_zero_where_nothing_is_masked(corrupted):
    log_shares = torch.full((30,), -torch.inf)
    log_shares[5:] = -3.0
    assert torch.isfinite(
        gradient_of(SurpriseReward(log_shares), corrupted, torch.zeros(corrupted.labels.shape))
    ).all()


def test_the_slow_copy_follows_and_comes_back_from_a_checkpoint(make_encoder, corrupted, tmp_path):
    encoder = make_encoder()
    reward = ReducibleReward(encoder, decay=0.75)
    start = encoder.cls.predictions.bias.detach().clone()
    encoder.cls.predictions.bias.data += 1.0
    reward.after_encoder_update(encoder, torch.tensor(True))
    assert torch.equal(reward.slow.cls.predictions.bias, start)  # an update that was left out moves nothing
    reward.after_encoder_update(encoder, torch.tensor(False))
    assert torch.allclose(reward.slow.cls.predictions.bias, start + 0.25)
    reward.save(str(tmp_path))
    resumed = ReducibleReward(make_encoder(seed=3), decay=0.75)
    resumed.load(str(tmp_path))
    losses = torch.zeros(corrupted.labels.shape)
    assert resumed.direct(corrupted, losses) == reward.direct(corrupted, losses)
    with pytest.raises(ValueError, match="slow_encoder.safetensors, which noiser_reward: reducible needs"):
        resumed.load(str(tmp_path / "elsewhere"))


def test_all_weights_follow_at_once_as_they_follow_one_by_one():
    generator = torch.Generator().manual_seed(0)
    slow, fast = ([torch.randn(n, 3, generator=generator) for n in (2, 5)] for _ in range(2))
    expected = [one.lerp(other, 0.1) for one, other in zip(slow, fast, strict=True)]
    for left_out in (True, False):
        before = [one.clone() for one in slow]
        follow_at_once(slow, fast, 0.1 * ~torch.tensor(left_out))
        torch.testing.assert_close(slow, before if left_out else expected)


def test_reducible_pays_for_what_the_encoder_finds_harder_than_its_slow_copy(make_encoder, corrupted):
    encoder = make_encoder().eval()
    reward = ReducibleReward(encoder, decay=0.9)
    slow = token_losses(encoder(input_ids=corrupted.input_ids).logits, corrupted.labels).detach()
    assert gradient_of(reward, corrupted, slow).abs().max() < 1e-6  # both alike
    excess = torch.rand(slow.shape, generator=torch.Generator().manual_seed(0))
    paid(corrupted, excess, reward, slow + excess)
    assert not any(p.requires_grad for p in reward.slow.parameters())


def test_credit_without_random_masks_is_unbiased_for_losses_of_the_positions_own(collator, batch):
    """Its mean over draws is the gradient of Σ π_i loss_i, for fixed losses."""
    draws = 6000
    one = {name: tensor[:1].expand(draws, *tensor.shape[1:]) for name, tensor in batch.items()}
    scores = collator.noiser(batch["input_ids"][:1], batch["attention_mask"][:1])
    leaf = scores.any_mask_scores.detach().requires_grad_()
    values = torch.rand(leaf.shape, generator=torch.Generator().manual_seed(0))
    budget, _ = collator.rules.budgets(batch["num_residues"][:1])
    expected = (logistic_topk_marginals(leaf, batch["residue_mask"][:1], budget) * values).sum()
    (expected,) = torch.autograd.grad(expected, leaf)

    fixed = type(scores)(
        any_mask_scores=leaf.expand(draws, -1), option_scores=scores.option_scores.detach().expand(draws, -1, -1)
    )
    corrupted = collator.corrupt(
        one,
        row_keys(0, ENCODER_PHASE, 0, torch.arange(draws)),
        differentiable=True,
        one_hot=False,
        noiser=lambda **inputs: fixed,
    )
    corrupted.random = torch.zeros_like(corrupted.random)
    (mean,) = torch.autograd.grad(CreditReward().direct(corrupted, values.expand(draws, -1)) / draws, leaf)
    residues = batch["residue_mask"][:1]
    assert torch.nn.functional.cosine_similarity(mean[residues], expected[residues], dim=0) > 0.98
    assert (mean[residues] @ expected[residues]) / (expected[residues] @ expected[residues]) == pytest.approx(
        1, abs=0.1
    )


def mean_gradients_of_credit(scores: torch.Tensor, budget: int, random_budget: int, values: torch.Tensor):
    """Mean gradients of the scores over every choice of both kinds of masks in a short row.

    Returns that of `credit`, and that of Σ_{i∈S} (r_i − mean of all r) log π_i, whose baseline does not depend on S.
    """
    length = len(scores)
    outcomes, probabilities = [], []
    for chosen, p in successive_law_of_sets(scores.numpy(), budget).items():
        rest = [i for i in range(length) if i not in chosen]
        others = list(itertools.combinations(rest, random_budget))
        outcomes += [(chosen, other) for other in others]
        probabilities += [p / len(others)] * len(others)
    adversarial, random = (torch.zeros(len(outcomes), length, dtype=torch.bool) for _ in range(2))
    for row, (chosen, other) in enumerate(outcomes):
        adversarial[row, list(chosen)] = True
        random[row, list(other)] = True
    leaf = scores.expand(len(outcomes), -1).clone().requires_grad_()
    numbers = torch.tensor([budget, random_budget, length])[:, None].expand(-1, len(outcomes))
    rules = MaskingRules(0.2, adversarial_rate=0.2, sampler="gumbel_topk")
    choice = NoiserChoice(NoiserOutput(any_mask_scores=leaf), torch.ones_like(adversarial), numbers, rules)
    marginals = choice.probabilities
    ids = torch.zeros(adversarial.shape, dtype=torch.int64)
    corrupted = CorruptedBatch(ids, ids, ids, adversarial, random, ids, choice=choice)
    weights = torch.tensor(probabilities, dtype=torch.float64)[:, None]
    of_credit = gradient_of(CreditReward(), corrupted, values.expand(len(outcomes), -1))
    (fixed,) = torch.autograd.grad((adversarial * (values - values.mean()) * marginals.log()).sum(), leaf)
    return (weights * of_credit).sum(dim=0), (weights * fixed).sum(dim=0)


@pytest.mark.parametrize(
    ("length", "budget", "random_budget", "spread"),
    [(5, 1, 1, 1.0), (8, 1, 2, 2.0), (6, 2, 2, 0.0), (8, 2, 3, 0.0), (8, 3, 0, 0.0)],
)
def test_credit_with_random_masks_is_n_by_n_minus_1_times_the_gradient(length, budget, random_budget, spread):
    """Exactly so for a budget of one or equal scores: the random masks lie outside of what the noiser chose."""
    generator = torch.Generator().manual_seed(0)
    scores = spread * torch.randn(length, generator=generator, dtype=torch.float64)
    values = torch.rand(length, generator=generator, dtype=torch.float64)
    credit, unbiased = mean_gradients_of_credit(scores, budget, random_budget, values)
    factor = length / (length - 1) if random_budget else 1
    torch.testing.assert_close(credit, factor * unbiased, rtol=1e-9, atol=1e-12)
    if not spread:  # the closed form is exact, so the mean is the gradient of Σ π_i r_i
        leaf = scores[None].clone().requires_grad_()
        marginals = gumbel_topk_marginals(leaf, torch.ones(1, length, dtype=torch.bool), torch.tensor([budget]))
        (expected,) = torch.autograd.grad((marginals * values).sum(), leaf)
        torch.testing.assert_close(unbiased, expected[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("length", "budget"), [(6, 2), (8, 2), (8, 3)])
def test_credit_has_the_right_direction_for_unequal_scores(length, budget):
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        scores, values = (torch.randn(length, generator=generator, dtype=torch.float64) for _ in range(2))
        credit, unbiased = mean_gradients_of_credit(scores, budget, 2, values)
        assert torch.nn.functional.cosine_similarity(credit, unbiased, dim=0) > 0.99
        assert 1 < credit.norm() / unbiased.norm() < 1.05 * length / (length - 1)


def test_credit_asks_for_no_encoder_gradient_and_prefers_what_costs_more_than_chance(corrupted):
    reward = CreditReward()
    assert not reward.through_encoder
    level = torch.ones(corrupted.labels.shape)
    assert gradient_of(reward, corrupted, level).abs().max() < 1e-6  # all alike, nothing to learn
    favourite = corrupted.adversarial & (corrupted.adversarial.cumsum(dim=1) == 1)  # the first chosen of each row
    gradient = gradient_of(reward, corrupted, level + favourite)
    assert (gradient[favourite] > 0).all()


def test_credit_teaches_how_to_mask_where_that_is_learned(tokenizer, make_noiser, batch):
    learning = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser(), max_length=64)
    corrupted = learning.corrupt(batch, row_keys(0, ENCODER_PHASE, 0, torch.arange(8)), differentiable=True)
    losses = (corrupted.choice.winner == 0).float()  # only [MASK] costs
    options = corrupted.choice.scores.option_scores
    (gradient,) = torch.autograd.grad(CreditReward().direct(corrupted, losses), options)
    assert gradient[corrupted.adversarial][:, 0].sum() > 0


def test_predictor_learns_which_residues_cost_more_than_the_others_of_their_row(corrupted):
    losses = torch.rand(corrupted.labels.shape, generator=torch.Generator().manual_seed(0))
    scores = corrupted.choice.scores.any_mask_scores
    scores.data[:] = 10 * (losses + 3.0)  # right, up to a constant that chooses nothing
    assert PredictorReward().direct(corrupted, losses).abs() < 1e-6
    scores.data[:] = 0
    gradient = gradient_of(PredictorReward(), corrupted, losses)
    for row in range(len(losses)):
        masked = corrupted.masked[row]
        above = losses[row][masked] > losses[row][masked].mean()
        assert (gradient[row][masked][above] > 0).all() and (gradient[row][masked][~above] < 0).all()
    assert not gradient[~corrupted.masked].any()
