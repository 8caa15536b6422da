import numpy as np
import pytest
import torch

from adversarial_mlm.masking import sampling
from adversarial_mlm.masking.keyed_random import ANY_MASK, ENCODER_PHASE, gumbel, row_keys
from adversarial_mlm.masking.sampling import (
    exact_budget,
    gumbel_topk_marginals,
    logistic_topk_marginals,
    rss,
    threshold_mask,
    topk_mask,
)
from tests.helpers.plain_algorithms import plain_rss


def ragged(lengths: list[int], width: int) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]


@pytest.fixture
def keys():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("items", "rate", "budget"),
    [
        (0, 0.1, 0),
        (4, 0.1, 0),
        (5, 0.1, 1),
        (14, 0.1, 1),
        (15, 0.1, 2),
        (25, 0.1, 3),
        (510, 0.1, 51),
        (10, 0.2, 2),
        (7, 1.0, 7),
    ],
)
def test_budget_is_the_rounded_share_with_halves_up(items, rate, budget):
    assert exact_budget(torch.tensor(items), rate) == budget


def test_budget_has_no_float_error():
    # 0.1 + 0.2 is above 0.3, and 0.29 * 50 below 14.5, as floats
    assert exact_budget(torch.tensor(15), 0.1 + 0.2) == exact_budget(torch.tensor(15), 0.3) == 5
    assert exact_budget(torch.tensor(50), 0.29) == 15


def test_topk_spends_every_rows_budget_exactly_within_its_mask(keys):
    lengths, width = [0, 1, 5, 40, 40], 40
    budget = torch.tensor([0, 1, 2, 0, 40])
    chosen = topk_mask(keys(5, width), ragged(lengths, width), budget)
    assert chosen.sum(dim=1).tolist() == [0, 1, 2, 0, 40]
    assert not (chosen & ~ragged(lengths, width)).any()


def test_topk_takes_all_where_the_budget_is_larger_than_the_row(keys):
    assert topk_mask(keys(1, 10), ragged([3], 10), torch.tensor([7])).sum() == 3


@pytest.mark.parametrize("sign", [1, -1])
def test_topk_spends_its_budget_where_keys_are_infinite(sign):
    keys = sign * torch.tensor([[torch.inf] * 4 + [1.0, 2.0], [0.0, 0.0, torch.inf, torch.inf, torch.inf, 1.0]])
    mask = torch.tensor([[False, False, True, True, True, True], [False, True, True, True, False, True]])
    chosen = topk_mask(keys, mask, torch.tensor([3, 4]))
    assert chosen.sum(dim=1).tolist() == [3, 4] and not (chosen & ~mask).any()
    expected = [2, 3, 5] if sign > 0 else [2, 4, 5]  # the first of equal keys
    assert chosen[0].nonzero()[:, 0].tolist() == expected


def test_topk_of_scores_plus_gumbel_draws_in_proportion_to_exp_scores(keys):
    scores = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    noise = -torch.log(-torch.log(torch.rand(20_000, 3, generator=torch.Generator().manual_seed(1))))
    chosen = topk_mask(scores + noise, torch.ones(20_000, 3, dtype=torch.bool), torch.ones(20_000, dtype=torch.int64))
    assert torch.allclose(chosen.float().mean(dim=0), torch.softmax(scores[0], dim=-1), atol=0.015)


def test_rss_sums_to_each_rows_own_budget(keys):
    # as printed, Algorithm 1 would give both rows the mass 51
    lengths, budget = [60, 510], torch.tensor([6, 51])
    soft = rss(keys(2, 510), ragged(lengths, 510), budget, keys(2, 510))
    assert torch.allclose(soft.sum(dim=1), budget.double(), atol=1e-9)
    assert (soft[0, 60:] == 0).all() and (soft >= 0).all()


def test_rss_has_the_top_k_of_scores_plus_noise(keys):
    scores, noise, mask = keys(8, 50), keys(8, 50), ragged([50, 40, 30, 20, 10, 5, 2, 1], 50)
    budget = torch.tensor([5, 4, 3, 2, 1, 1, 1, 1])
    soft = rss(scores, mask, budget, noise)
    assert torch.equal(topk_mask(soft, mask, budget), topk_mask(scores + noise, mask, budget))


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_rss_has_the_order_of_scores_plus_noise_from_a_temperature_of_1_on(keys, temperature):
    scores, noise, mask = 3 * keys(300, 8), keys(300, 8), torch.ones(300, 8, dtype=torch.bool)
    budget = torch.arange(300) % 8
    soft = rss(scores, mask, budget, noise, temperature)
    in_order = soft.gather(-1, (scores + noise).argsort(dim=-1, descending=True))
    assert (in_order.diff(dim=-1) < 1e-12).all()


def share_of_other_choices(keys: torch.Tensor, budget: int, temperature: float) -> float:
    """Share of the rows in which the largest values of `rss` are not those of the keys."""
    mask, budgets = torch.ones(keys.shape, dtype=torch.bool), torch.full((len(keys),), budget)
    soft = rss(keys, mask, budgets, torch.zeros_like(keys), temperature)
    return (topk_mask(soft, mask, budgets) != topk_mask(keys, mask, budgets)).any(dim=1).double().mean().item()


def test_below_a_temperature_of_about_0_3_the_largest_values_of_rss_are_others():
    three = torch.tensor([[-0.067, 0.053, 0.046]], dtype=torch.float64)
    mask, budget = torch.ones(1, 3, dtype=torch.bool), torch.tensor([2])
    soft = rss(three, mask, budget, torch.zeros_like(three), temperature=0.1)
    assert soft[0].tolist() == pytest.approx([1.047, 0.482, 0.472], abs=5e-4)
    assert threshold_mask(soft, mask).tolist() == [[True, False, False]]  # the least key


@pytest.mark.parametrize(("length", "budget"), [(10, 2), (20, 4), (50, 5), (100, 10)])
def test_the_documented_shares_of_other_choices_are_those_of_the_code(repository, length, budget):
    noise = gumbel(row_keys(0, ENCODER_PHASE, 0, torch.arange(3000)), ANY_MASK, length).double()
    shares = [100 * share_of_other_choices(noise, budget, temperature) for temperature in (0.1, 0.15, 0.2, 0.25, 0.3)]
    row = f"| {length}, {budget} | {' | '.join(f'{share:.1f}' for share in shares)} |"
    assert row in (repository / "docs" / "algorithm.md").read_text(), row


@pytest.mark.parametrize(("temperature", "differ"), [(0.25, True), (sampling.ORDERED_TEMPERATURE, False)])
def test_no_rows_of_three_near_keys_have_other_choices_from_a_temperature_of_0_3_on(temperature, differ):
    steps = torch.logspace(-4, 0.7, 60, dtype=torch.float64)
    first, second = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    keys = torch.stack([torch.zeros_like(first), -first, -first - second], dim=-1)
    assert (share_of_other_choices(keys, 2, temperature) > 0) == differ


def test_rss_with_a_low_temperature_is_the_hard_choice(keys):
    scores, noise, mask, budget = 20 * keys(3, 20), keys(3, 20), ragged([20, 15, 9], 20), torch.tensor([4, 3, 2])
    soft = rss(scores, mask, budget, noise, temperature=0.1)
    assert torch.allclose(soft, topk_mask(scores + noise, mask, budget).double(), atol=1e-6)


def test_rss_does_not_see_padding_nor_the_bound(keys):
    scores, noise, budget = keys(2, 12), keys(2, 12), torch.tensor([3, 2])
    mask = ragged([12, 7], 12)
    wide = torch.nn.functional.pad
    plain = rss(scores, mask, budget, noise)
    padded = rss(wide(scores, (0, 9), value=50.0), wide(mask, (0, 9)), budget, wide(noise, (0, 9)), max_budget=8)
    assert torch.allclose(plain, padded[:, :12], atol=1e-12) and (padded[:, 12:] == 0).all()


def test_rss_moves_with_its_positions(keys):
    scores, noise, mask, budget = keys(1, 9), keys(1, 9), ragged([9], 9), torch.tensor([3])
    order = torch.tensor([4, 1, 8, 0, 2, 7, 3, 6, 5])
    assert torch.allclose(
        rss(scores, mask, budget, noise)[:, order], rss(scores[:, order], mask, budget, noise[:, order])
    )


def test_rss_of_empty_and_one_residue_rows_is_exact(keys):
    mask, budget = ragged([0, 1, 1], 4), torch.tensor([0, 1, 0])
    assert torch.allclose(
        rss(keys(3, 4), mask, budget, keys(3, 4)), torch.tensor([[0.0] * 4, [1, 0, 0, 0], [0] * 4]).double()
    )


@pytest.mark.parametrize("size", [1e4, -1e4, 0.0])
def test_rss_stays_finite_for_extreme_and_equal_scores(keys, size):
    scores = torch.full((2, 30), size).requires_grad_()
    scores_used = scores * torch.linspace(0.5, 1, 30)
    soft = rss(scores_used, ragged([30, 10], 30), torch.tensor([3, 10]), keys(2, 30).float())
    (soft**2).sum().backward()
    assert torch.isfinite(soft).all() and torch.isfinite(scores.grad).all()
    assert torch.allclose(soft.sum(dim=1), torch.tensor([3.0, 10.0]), atol=1e-4)


def test_rss_gradient_is_right(keys):
    mask, budget, noise = ragged([6, 4, 0], 6), torch.tensor([3, 1, 0]), keys(3, 6)
    assert torch.autograd.gradcheck(lambda s: rss(s, mask, budget, noise, 0.7), keys(3, 6).requires_grad_())


def test_rss_is_float32_under_autocast_and_for_half_precision_scores(keys):
    mask, budget, noise = ragged([20], 20), torch.tensor([5]), keys(1, 20).float()
    scores = keys(1, 20).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        soft = rss(scores, mask, budget, noise)
    assert soft.dtype == torch.float32
    assert torch.equal(soft, rss(scores.float(), mask, budget, noise))


def test_rss_refuses_a_temperature_that_is_the_hard_choice(keys):
    with pytest.raises(ValueError, match="temperature"):
        rss(keys(1, 3), ragged([3], 3), torch.tensor([1]), keys(1, 3), temperature=0.05)


# ---- every relaxed choice keeps the same promises ----


def hajek_marginals(scores, mask, budget):
    return logistic_topk_marginals(scores, mask, budget, hajek=True)


def rss_of_fixed_noise(scores, mask, budget, temperature=1.0, gated=True):
    # noise that goes with the position, so that permuting and padding mean the same as for the closed forms, and that
    # does not follow the small steps of gradcheck
    noise = 2 * torch.sin(37 * torch.round(scores.detach().double(), decimals=2))
    return rss(scores, mask, budget, noise, temperature, gated=gated)


RELAXED = [rss_of_fixed_noise, gumbel_topk_marginals, logistic_topk_marginals, hajek_marginals]
CLOSED = [gumbel_topk_marginals, logistic_topk_marginals, hajek_marginals]


@pytest.mark.parametrize("relaxed", RELAXED)
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_gradient_is_right_for_every_budget(keys, relaxed, scale):
    # none, one, all but one, all, more than there are; a short row, an empty one
    mask, budget = ragged([6, 6, 6, 6, 4, 4, 0], 6), torch.tensor([0, 1, 5, 6, 3, 9, 0])
    scores = (scale * keys(7, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: relaxed(s, mask, budget), scores)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("gated", [True, False])
def test_gradient_of_rss_is_right_at_every_temperature(keys, temperature, gated):
    mask, budget = ragged([9, 6, 0], 9), torch.tensor([7, 2, 0])
    scores = keys(3, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: rss_of_fixed_noise(s, mask, budget, temperature, gated), scores)


def test_gradient_of_rss_is_that_of_autograd_through_the_plain_loop(keys):
    scores, noise, mask, budget = keys(4, 60), keys(4, 60), ragged([60, 41, 17, 1], 60), torch.tensor([12, 8, 3, 1])
    weights = keys(4, 60)

    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    (rss(ours, mask, budget, noise) * weights).sum().backward()
    (plain_rss(theirs, mask, budget, noise) * weights).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)
    # in float32, where 1 − a is coarse when one position has nearly all, within what float32 can give
    sharp = (20 * scores).float().requires_grad_()
    exact = (20 * scores).float().double().requires_grad_()
    (rss(sharp, mask, budget, noise.float()) * weights.float()).sum().backward()
    (rss(exact, mask, budget, noise.float().double()) * weights.float().double()).sum().backward()
    assert (sharp.grad - exact.grad).abs().max() < 1e-3 * exact.grad.abs().max()


@pytest.mark.parametrize("relaxed", RELAXED)
def test_each_row_sums_to_its_own_budget(keys, relaxed):
    mask, budget = ragged([50, 50, 50, 50, 50, 20, 1, 1, 0], 50), torch.tensor([0, 1, 25, 49, 50, 7, 1, 0, 0])
    values = relaxed(3 * keys(9, 50), mask, budget)
    assert torch.allclose(values.sum(dim=1), budget.double(), atol=1e-8) and not values[~mask].any()


@pytest.mark.parametrize("relaxed", CLOSED)
def test_a_closed_form_is_a_probability_and_sure_where_all_are_chosen(keys, relaxed):
    mask, budget = ragged([30, 30, 12, 1, 0], 30), torch.tensor([3, 29, 15, 1, 4])
    values = relaxed(4 * keys(5, 30), mask, budget)
    if relaxed is not hajek_marginals:  # an expansion
        assert (values >= 0).all() and (values <= 1).all()
    assert torch.equal(values[2:], mask[2:].double())


@pytest.mark.parametrize("relaxed", RELAXED)
def test_padding_and_other_rows_change_nothing(keys, relaxed):
    scores, mask, budget = keys(3, 20), ragged([20, 13, 5], 20), torch.tensor([6, 3, 1])
    wide = torch.nn.functional.pad
    padded = relaxed(wide(scores, (0, 11), value=90.0), wide(mask, (0, 11)), budget)
    together = relaxed(scores, mask, budget)
    assert torch.allclose(padded[:, :20], together, atol=1e-12)
    for row, length in enumerate([20, 13, 5]):
        alone = relaxed(scores[row : row + 1, :length], mask[row : row + 1, :length], budget[row : row + 1])
        assert torch.allclose(alone[0], together[row, :length], atol=1e-12)


@pytest.mark.parametrize("relaxed", RELAXED)
def test_values_and_gradients_move_with_their_positions(keys, relaxed):
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    mask, budget, weights = ragged([25], 25), torch.tensor([8]), keys(1, 25)
    straight, moved = keys(1, 25).requires_grad_(), None
    moved = straight.detach()[:, order].requires_grad_()
    (relaxed(straight, mask, budget) * weights).sum().backward()
    values = relaxed(moved, mask, budget)
    (values * weights[:, order]).sum().backward()
    assert torch.allclose(values, relaxed(straight, mask, budget)[:, order], atol=1e-12)
    assert torch.allclose(moved.grad, straight.grad[:, order], atol=1e-11)


@pytest.mark.parametrize("relaxed", RELAXED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, -1e4, 0.0])
def test_extreme_and_equal_scores_stay_finite_and_within_budget(keys, relaxed, dtype, size):
    scores = (size * keys(4, 40).sign()).to(dtype) if size else torch.zeros(4, 40, dtype=dtype)
    scores[3] = torch.linspace(-1e4, 1e4, 40)
    scores.requires_grad_()
    budget = torch.tensor([1, 10, 39, 17])
    values = relaxed(scores, ragged([40] * 4, 40), budget)
    (values**2).sum().backward()
    assert torch.isfinite(values).all() and torch.isfinite(scores.grad).all()
    assert torch.allclose(values.sum(dim=1), budget.to(dtype), atol=1e-4)
    if not size:
        assert torch.allclose(values[:3].double(), budget[:3, None].double() / 40, atol=1e-5)


def rss_without_noise(scores, mask, budget):
    return rss(scores, mask, budget, torch.zeros_like(scores))


# Hájek's correction is left out, as an expansion around other values
@pytest.mark.parametrize("relaxed", [rss_without_noise, gumbel_topk_marginals, logistic_topk_marginals])
def test_infinite_scores_are_the_largest_and_least(relaxed):
    inf = torch.inf
    scores = torch.tensor([[0.3, -inf, 1.0, -inf], [-inf] * 4, [inf, 0.0, 0.0, 0.0], [-inf, 0.0, 0.0, 0.0]])
    mask, budget = torch.ones(4, 4, dtype=torch.bool), torch.tensor([1, 2, 1, 2])
    mask[3, 1] = False
    scores.requires_grad_()
    values = relaxed(scores, mask, budget)
    (values**2).sum().backward()
    assert torch.allclose(values.sum(dim=1), budget.float()) and scores.grad.isfinite().all()
    assert values[0, [1, 3]].abs().max() < 1e-6 and torch.allclose(values[1], torch.full((4,), 0.5))
    assert torch.allclose(values[2], torch.tensor([1.0, 0, 0, 0]), atol=1e-6)
    assert not values[3, :2].any() and (values[3, 2:] > 0.5).all()


@pytest.mark.parametrize("relaxed", RELAXED)
def test_a_gradient_penalty_is_refused_and_not_silently_0(keys, relaxed):
    scores = keys(1, 9).requires_grad_()
    value = relaxed(scores, ragged([9], 9), torch.tensor([3]))[0, 0]  # its gradient is a constant to autograd
    with pytest.raises(RuntimeError, match="has no second derivative, but create_graph=True asks for one"):
        torch.autograd.grad(value, scores, create_graph=True)
    (gradient,) = torch.autograd.grad(value, scores)
    assert gradient.any()


@pytest.mark.parametrize("relaxed", RELAXED)
def test_values_are_float32_under_autocast_and_for_half_precision(keys, relaxed):
    mask, budget, scores = ragged([20], 20), torch.tensor([5]), keys(1, 20).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = relaxed(scores, mask, budget)
    assert values.dtype == torch.float32
    assert torch.allclose(values, relaxed(scores.float(), mask, budget), atol=1e-6)


@pytest.mark.parametrize("relaxed", RELAXED)
def test_no_positions_and_no_rows_are_no_error(relaxed):
    assert relaxed(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), torch.tensor([0, 3])).shape == (2, 0)
    empty = relaxed(torch.zeros(0, 5), torch.zeros(0, 5, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    assert empty.shape == (0, 5)


# ---- a closed form belongs to its own law ----


def drawn(kind: str, scores: torch.Tensor, budget: int, draws: int) -> torch.Tensor:
    """Share of draws that hold each position, `(length,)`."""
    u = torch.rand(draws, len(scores), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    noise = -torch.log(-torch.log(u)) if kind == "gumbel" else torch.logit(u)
    mask = torch.ones_like(noise, dtype=torch.bool)
    return topk_mask(scores + noise, mask, torch.full((draws,), budget)).double().mean(dim=0)


def closed(relaxed, scores: torch.Tensor, budget: int) -> torch.Tensor:
    return relaxed(scores[None], torch.ones(1, len(scores), dtype=torch.bool), torch.tensor([budget]))[0]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("gumbel", gumbel_topk_marginals, logistic_topk_marginals),
        ("logistic", logistic_topk_marginals, gumbel_topk_marginals),
    ],
)
def test_closed_forms_agree_with_their_own_draws_and_not_with_the_others(keys, kind, right, wrong):
    scores, budget, draws = 1.5 * keys(100), 20, 20_000
    frequency = drawn(kind, scores, budget, draws)
    # a standard error is at most 0.0035, and the largest of a hundred about three of them
    assert (closed(right, scores, budget) - frequency).abs().max() < 0.015
    assert (closed(wrong, scores, budget) - frequency).abs().max() > 0.05


def exact_conditional_poisson(scores: torch.Tensor, budget: int) -> torch.Tensor:
    """P(i ∈ m) for P(m) ∝ exp(Σ_{i∈m} s_i), |m| = budget, by elementary symmetric polynomials."""

    def log_sums(values) -> np.ndarray:
        sums = np.array([0.0] + [-np.inf] * budget)  # logarithms of e_0 … e_budget
        for value in values:
            sums[1:] = np.logaddexp(sums[1:], sums[:-1] + value)
        return sums

    values = scores.tolist()
    total = log_sums(values)[budget]
    with_it = [v + log_sums(values[:i] + values[i + 1 :])[budget - 1] - total for i, v in enumerate(values)]
    return torch.tensor(np.exp(with_it))


@pytest.mark.parametrize(("length", "budget", "error"), [(12, 4, 0.02), (40, 8, 0.002)])
def test_hajeks_correction_gives_conditional_poisson_marginals(keys, length, budget, error):
    scores = 1.5 * keys(length)
    exact = exact_conditional_poisson(scores, budget)
    assert exact.sum().item() == pytest.approx(budget, abs=1e-5)
    corrected, plain = (closed(f, scores, budget) for f in (hajek_marginals, logistic_topk_marginals))
    assert (corrected - exact).abs().max() < error
    assert (corrected - exact).abs().max() < 0.25 * (plain - exact).abs().max()


# ---- as printed ----


def test_ungated_every_row_sums_to_the_largest_budget_of_the_batch(keys):
    soft = rss(keys(3, 510), ragged([60, 510, 60], 510), torch.tensor([6, 51, 0]), keys(3, 510), gated=False)
    assert torch.allclose(soft.sum(dim=1), torch.full((3,), 51.0).double(), atol=1e-8)


def test_an_ungated_row_that_is_done_repeats_its_last_softmax(keys):
    scores, noise = keys(2, 30), keys(2, 30)
    mask, budget = ragged([30, 30], 30), torch.tensor([2, 7])
    gated, literal = (rss(scores, mask, budget, noise, gated=gated) for gated in (True, False))
    last = gated[0] - rss(scores[:1], mask[:1], torch.tensor([1]), noise[:1])[0]
    assert torch.allclose(literal[0], gated[0] + 5 * last, atol=1e-9)
    assert torch.allclose(literal[1], gated[1])


def test_the_threshold_leaves_most_of_the_budget_unspent(keys):
    mask, budget = ragged([512], 512).expand(16, -1), torch.full((16,), 51)
    noise = -torch.log(-torch.log(torch.rand(16, 512, generator=torch.Generator().manual_seed(0))))
    chosen = threshold_mask(rss(torch.zeros(16, 512), mask, budget, noise), mask)
    assert 0.3 < chosen.sum() / budget.sum() < 0.45


@pytest.mark.parametrize("closed_form", [gumbel_topk_marginals, logistic_topk_marginals])
def test_backward_of_a_closed_form_keeps_one_tensor(keys, closed_form):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        closed_form(keys(2, 64).requires_grad_(), ragged([64, 30], 64), torch.tensor([6, 3]))
    assert saved == [(2, 64)]


def test_backward_of_rss_keeps_about_the_square_root_of_its_draws(keys):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        rss(keys(1, 1000).requires_grad_(), ragged([1000], 1000), torch.tensor([100]), keys(1, 1000))
    assert [tuple(t.shape) for t in saved if t.is_floating_point()] == [(10, 1, 1000), (100, 1, 1)]


def test_a_second_backward_pass_of_rss_gives_the_same(keys):
    scores = keys(2, 50).requires_grad_()
    soft = rss(scores, ragged([50, 30], 50), torch.tensor([9, 4]), keys(2, 50))
    towards = keys(2, 50)
    first, second = (torch.autograd.grad((soft * towards).sum(), scores, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and first.abs().max() > 0
