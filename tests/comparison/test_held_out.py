import numpy as np
import pytest

from adversarial_mlm.comparison.held_out import divide, load_comparison_data
from adversarial_mlm.comparison.recipe import HeldOut
from adversarial_mlm.data import read_cluster_table
from adversarial_mlm.recipes.data import load_data
from adversarial_mlm.recipes.recipe import RecipeError


def test_a_cluster_is_in_one_part_and_each_part_gets_its_share():
    clusters = [f"c{number % 50}" for number in range(1000)]
    chosen = divide(clusters, 0.3, seed=0)
    for name in set(clusters):
        assert len({bool(chosen[i]) for i, other in enumerate(clusters) if other == name}) == 1
    assert 0.25 < chosen.mean() < 0.35


def test_the_division_depends_on_seed_and_names_and_not_on_the_order_of_records():
    clusters = [f"c{number % 50}" for number in range(1000)]
    chosen = divide(clusters, 0.5, seed=0)
    assert np.array_equal(divide(clusters[::-1], 0.5, seed=0), chosen[::-1])
    assert not np.array_equal(divide(clusters, 0.5, seed=1), chosen)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_neither_part_is_empty_even_of_two_clusters(seed, share):
    assert set(divide(["a"] * 5 + ["b"] * 200, share, seed)) == {True, False}


def test_one_cluster_cannot_be_divided():
    with pytest.raises(ValueError, match="7 proteins of one cluster"):
        divide(["a"] * 7, 0.5, 0)


def test_a_cluster_of_two_sets_is_in_the_same_part_of_both():
    placed = {}
    first = divide([f"c{number % 20}" for number in range(200)], 0.5, 0, placed)
    second_set = [f"c{number % 30}" for number in range(300)]
    second = divide(second_set, 0.5, 3, placed)
    for name, chosen in zip(second_set, second, strict=True):
        if int(name[1:]) < 20:
            assert chosen == first[int(name[1:])]
    assert 0.4 < second.mean() < 0.6  # the new ones make up for it
    with pytest.raises(ValueError, match="its 2 clusters are all in one part of another held-out set"):
        divide(["a", "b"], 0.5, 0, {"a": True, "b": True})


def test_both_parts_are_the_held_out_proteins_and_training_is_as_without_them(prepared):
    made = prepared()
    args = made.recipes["random"].data
    whole = load_data(args)
    assert made.data.proteins.train["id"][:] == whole.train["id"][:]
    families = read_cluster_table(args.cluster_table)
    for name, part in whole.held_out.items():
        selection, confirmation = made.data.selection[name], made.data.confirmation[name]
        assert sorted([*selection["id"], *confirmation["id"]]) == sorted(part["id"])
        assert not {families[i] for i in selection["id"]} & {families[i] for i in confirmation["id"]}
        sizes = made.data.sizes()[name]
        assert (sizes["selection"], sizes["confirmation"]) == (len(selection), len(confirmation))
        assert sizes["confirmation_families"] == len({families[i] for i in confirmation["id"]})
    assert load_comparison_data(args, HeldOut()).fingerprint == made.data.fingerprint
    assert load_comparison_data(args, HeldOut(split_seed=1)).fingerprint != made.data.fingerprint


def test_without_held_out_proteins_nothing_can_be_compared(prepared):
    with pytest.raises(RecipeError, match="no proteins are held out"):
        prepared({f"common.{name}": None for name in ("holdout_families", "holdout_members", "cluster_table")})
