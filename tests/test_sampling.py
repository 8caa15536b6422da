import pytest
import torch

from adversarial_mlm.sampling import exact_budget, rss, topk_mask


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


def test_rss_with_a_low_temperature_is_the_hard_choice(keys):
    scores, noise, mask, budget = keys(3, 20), keys(3, 20), ragged([20, 15, 9], 20), torch.tensor([4, 3, 2])
    soft = rss(scores, mask, budget, noise, temperature=1e-3)
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


def test_rss_refuses_a_temperature_of_zero(keys):
    with pytest.raises(ValueError, match="temperature"):
        rss(keys(1, 3), ragged([3], 3), torch.tensor([1]), keys(1, 3), temperature=0)
