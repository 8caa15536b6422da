import torch

from adversarial_mlm.masking.keyed_random import (
    ANY_MASK,
    ENCODER_PHASE,
    MASK_OPTION,
    NOISER_PHASE,
    gumbel,
    row_keys,
    uniform,
)


def keys_of(rows: int, seed: int = 0, phase: int = ENCODER_PHASE, update: int = 0) -> torch.Tensor:
    return row_keys(seed, phase, update, torch.arange(rows))


def test_every_part_of_the_key_changes_the_numbers():
    base = uniform(keys_of(4), ANY_MASK, 50)
    for other in (keys_of(4, seed=1), keys_of(4, phase=NOISER_PHASE), keys_of(4, update=1)):
        assert not torch.isclose(uniform(other, ANY_MASK, 50), base).any(dim=1).all()
    assert len(set(keys_of(1000).tolist())) == 1000
    assert (uniform(keys_of(4), MASK_OPTION, 50) != base).float().mean() > 0.99


def test_a_row_has_the_same_numbers_wherever_it_stands():
    together = uniform(keys_of(6), ANY_MASK, 30)
    alone = uniform(row_keys(0, ENCODER_PHASE, 0, torch.tensor([4])), ANY_MASK, 30)
    assert torch.equal(together[4:5], alone)


def test_padding_changes_nothing():
    assert torch.equal(uniform(keys_of(3), ANY_MASK, 20), uniform(keys_of(3), ANY_MASK, 70)[:, :20])
    assert torch.equal(uniform(keys_of(3), ANY_MASK, 20, 5), uniform(keys_of(3), ANY_MASK, 70, 5)[:, :20])


def test_numbers_are_pinned_so_that_old_runs_can_be_repeated():
    numbers = uniform(row_keys(7, NOISER_PHASE, 3, torch.tensor([0, 1])), ANY_MASK, 2)
    expected = torch.tensor([[0.14116758108139038, 0.9053676724433899], [0.00951319932937622, 0.24428123235702515]])
    assert torch.equal(numbers, expected)


def test_uniform_is_uniform_and_uncorrelated():
    numbers = uniform(keys_of(200), ANY_MASK, 500).double()
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    # 100,000 numbers in 20 bins: chi-square with 19 degrees of freedom exceeds 50 once in 10,000 times
    assert ((counts - 5000) ** 2 / 5000).sum() < 50
    for shifted in (numbers[:, 1:], numbers[1:]):
        same = numbers[: shifted.shape[0], : shifted.shape[1]]
        assert abs(torch.corrcoef(torch.stack([same.flatten(), shifted.flatten()]))[0, 1]) < 0.015


def test_gumbel_is_finite_at_both_ends_and_has_its_mean():
    numbers = uniform(keys_of(2000), ANY_MASK, 1000)
    assert numbers.min() > 0 and numbers.max() < 1
    noise = gumbel(keys_of(2000), ANY_MASK, 1000)
    assert torch.isfinite(noise).all()
    assert abs(noise.double().mean() - 0.5772) < 0.005


def test_negative_and_large_seeds_are_fine():
    for seed in (-1, 2**63, 2**70):
        assert torch.isfinite(gumbel(keys_of(2, seed=seed), ANY_MASK, 5)).all()
