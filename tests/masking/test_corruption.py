import pytest
import torch

from adversarial_mlm.masking.corruption import NOT_MASKED, _importance
from adversarial_mlm.masking.corruption import corrupt_batch as noise_batch_by_rules
from adversarial_mlm.masking.data_collator import SequenceEncoder
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.masking.sampling import exact_budget
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE, NoiserOutput
from tests.helpers.plain_algorithms import printed_straight_through


@pytest.fixture
def batch(tokenizer, proteins):
    # with letters that can be masked but never stand in, and an unknown that can be neither
    return SequenceEncoder(tokenizer)([{"sequence": s} for s in [*proteins[:30:3], "MKBZXUO?" * 10, "ACDEFGHIKL"]])


@pytest.fixture
def many(tokenizer, proteins):
    return SequenceEncoder(tokenizer)([{"sequence": s} for s in proteins[:400]])


def corrupt_batch(batch, keys, vocabulary, *, scores=None, one_hot=False, **rules):
    """With given scores in place of a noiser."""
    noiser = None if scores is None else lambda **inputs: scores
    return noise_batch_by_rules(batch, keys, vocabulary, MaskingRules(**rules), noiser, one_hot)


def keys_of(batch, update: int = 0) -> torch.Tensor:
    return row_keys(0, ENCODER_PHASE, update, torch.arange(len(batch["input_ids"])))


def random_scores(batch, scale: float = 1.0, dtype=torch.float32) -> NoiserOutput:
    generator = torch.Generator().manual_seed(3)
    shape = batch["input_ids"].shape
    return NoiserOutput(
        any_mask_scores=(scale * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_(),
        option_scores=(scale * torch.randn(*shape, 22, generator=generator)).to(dtype).requires_grad_(),
    )


def test_both_kinds_of_masks_spend_their_budgets_exactly_and_never_meet(batch, vocabulary):
    corrupted = corrupt_batch(
        batch, keys_of(batch), vocabulary, random_rate=0.1, adversarial_rate=0.1, scores=random_scores(batch, 3.0)
    )
    adversarial, random = MaskingRules(0.1, adversarial_rate=0.1).budgets(batch["num_residues"])
    assert torch.equal(corrupted.adversarial.sum(dim=1), adversarial)
    assert torch.equal(corrupted.random.sum(dim=1), random)
    assert not (corrupted.adversarial & corrupted.random).any()
    assert torch.equal((corrupted.labels != IGNORE_INDEX).sum(dim=1), exact_budget(batch["num_residues"], 0.2))


def test_a_run_without_a_noiser_masks_as_many_residues():
    residues = torch.arange(600)
    adversarial, random = MaskingRules(0.1, adversarial_rate=0.1).budgets(residues)
    assert torch.equal(adversarial + random, exact_budget(residues, 0.2))
    assert (adversarial >= 0).all() and (random >= 0).all() and ((adversarial - random).abs() <= 1).all()


def test_only_residues_are_masked_and_only_standard_ones_stand_in(many, batch, vocabulary):
    for data in (many, batch):
        corrupted = corrupt_batch(
            data, keys_of(data), vocabulary, random_rate=0.4, adversarial_rate=0.4, scores=random_scores(data)
        )
        masked = corrupted.adversarial | corrupted.random
        assert not (masked & ~data["residue_mask"]).any()
        assert torch.equal(corrupted.input_ids[~masked], data["input_ids"][~masked])
        replaced = corrupted.input_ids[corrupted.option == REPLACE]
        assert set(replaced.tolist()) == set(vocabulary.replacement_ids)
        assert (corrupted.input_ids[corrupted.option == MASK] == vocabulary.mask_token_id).all()
        assert torch.equal(corrupted.input_ids[corrupted.option == KEEP], data["input_ids"][corrupted.option == KEEP])
        assert torch.equal(corrupted.option == NOT_MASKED, ~masked)
        assert torch.equal(corrupted.labels[masked], data["input_ids"][masked])


def test_random_masks_are_80_10_10_and_fall_everywhere_alike(many, vocabulary):
    corrupted = corrupt_batch(many, keys_of(many), vocabulary, random_rate=0.2)
    options = torch.bincount(corrupted.option[corrupted.random], minlength=3) / corrupted.random.sum()
    # about 10,000 masks: three standard errors are 0.012
    assert torch.allclose(options, torch.tensor([0.8, 0.1, 0.1]), atol=0.012)
    first_ten = corrupted.random[:, 1:11].float().mean()
    assert abs(first_ten - 0.2) < 0.02
    letters = torch.bincount(corrupted.input_ids[corrupted.option == REPLACE], minlength=30)[
        list(vocabulary.replacement_ids)
    ]
    assert ((letters - letters.float().mean()) ** 2 / letters.float().mean()).sum() < 50  # chi-square, 19 degrees


def test_an_untrained_noiser_chooses_80_10_10_too(many, vocabulary, tokenizer):
    from adversarial_mlm import NoiserConfig, NoiserModel

    noiser = NoiserModel(NoiserConfig.from_tokenizer(tokenizer, embedding_size=8, hidden_size=8))
    scores = noiser(many["input_ids"], many["attention_mask"])
    corrupted = corrupt_batch(many, keys_of(many), vocabulary, random_rate=0.1, adversarial_rate=0.2, scores=scores)
    options = torch.bincount(corrupted.option[corrupted.adversarial], minlength=3) / corrupted.adversarial.sum()
    assert torch.allclose(options, torch.tensor([0.8, 0.1, 0.1]), atol=0.012)
    assert torch.allclose(corrupted.choice.entropy, torch.ones(len(corrupted.choice.entropy)), atol=1e-5)


def test_the_noiser_decides(batch, vocabulary):
    scores = random_scores(batch)
    wanted = batch["residue_mask"] & (batch["input_ids"] == vocabulary.replacement_ids[9])  # leucines
    scores.any_mask_scores.data[wanted] += 1e3
    scores.option_scores.data[..., 2 + 4] += 1e3  # replace by the fifth letter
    corrupted = corrupt_batch(batch, keys_of(batch), vocabulary, random_rate=0.0, adversarial_rate=0.1, scores=scores)
    budget = exact_budget(batch["num_residues"], 0.1)
    assert torch.equal((corrupted.adversarial & wanted).sum(dim=1), torch.minimum(budget, wanted.sum(dim=1)))
    assert (corrupted.input_ids[corrupted.adversarial] == vocabulary.replacement_ids[4]).all()
    assert (corrupted.choice.entropy[:10] < 0.5).all()


def test_without_learned_options_the_noiser_only_writes_the_mask_token(batch, vocabulary):
    corrupted = corrupt_batch(
        batch,
        keys_of(batch),
        vocabulary,
        random_rate=0.1,
        adversarial_rate=0.1,
        scores=random_scores(batch),
        learned_options=False,
        one_hot=True,
    )
    assert (corrupted.input_ids[corrupted.adversarial] == vocabulary.mask_token_id).all()
    assert torch.equal(corrupted.one_hot.argmax(dim=-1), corrupted.input_ids)


def test_the_differentiable_batch_is_the_hard_one(batch, vocabulary):
    settings = {"random_rate": 0.1, "adversarial_rate": 0.1, "scores": random_scores(batch, 2.0)}
    hard = corrupt_batch(batch, keys_of(batch), vocabulary, **settings)
    soft = corrupt_batch(batch, keys_of(batch), vocabulary, one_hot=True, **settings)
    assert torch.equal(hard.input_ids, soft.input_ids) and torch.equal(hard.labels, soft.labels)
    expected = torch.nn.functional.one_hot(hard.input_ids, 30).float()
    assert torch.allclose(soft.one_hot, expected, atol=1e-5)


@pytest.mark.parametrize("learned_options", [True, False])
def test_hard_values_are_those_of_algorithm_3_as_printed_and_the_gradient_is_that_of_its_text(
    batch, vocabulary, learned_options
):
    """As printed, `p_mask_overall` gets no gradient with options, and without them one that no residue matters to."""
    scores = random_scores(batch, dtype=torch.float64)
    rules = {"random_rate": 0.0, "adversarial_rate": 0.2, "scores": scores, "learned_options": learned_options}
    corrupted = corrupt_batch(batch, keys_of(batch), vocabulary, one_hot=True, **rules)
    chosen, x = corrupted.adversarial, torch.nn.functional.one_hot(batch["input_ids"], 30).double()
    overall = chosen.double().requires_grad_()
    options = None
    if learned_options:  # the option that was drawn has all probability
        options = torch.nn.functional.one_hot(corrupted.choice.winner, 22).double().requires_grad_()
    printed = printed_straight_through(x, overall, options, vocabulary.mask_token_id, vocabulary.replacement_ids)
    assert torch.allclose(printed, corrupted.one_hot, atol=1e-12)
    weights = torch.randn(printed.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (of_ours,) = torch.autograd.grad((corrupted.one_hot * weights).sum(), corrupted.choice.soft)
    if learned_options:
        assert (
            torch.autograd.grad(
                (printed * weights).sum(), (overall, options), allow_unused=True, materialize_grads=False
            )[0]
            is None
        )
    else:
        (of_printed,) = torch.autograd.grad((printed * weights).sum(), overall)
        assert torch.allclose(of_printed, weights.sum(dim=-1) * chosen, atol=1e-12)  # a sum over all tokens
        masked_less_kept = weights[..., vocabulary.mask_token_id] - (weights * x).sum(dim=-1)
        assert torch.allclose(of_ours, masked_less_kept, atol=1e-12)


def test_importance_weights_stay_below_their_documented_bounds_but_in_proteins_of_5_to_7_residues():
    rules, largest = MaskingRules(0.1, adversarial_rate=0.1), {}
    for residues in range(3, 400):
        adversarial, random = rules.budgets(torch.tensor([residues]))
        probabilities = torch.full((1, residues), 1e-3)  # the noiser never chooses the first
        probabilities[0, 1:] = (adversarial - 1e-3) / (residues - 1)
        numbers = torch.stack([adversarial, random, torch.tensor([residues])])
        weights = _importance(probabilities, torch.ones(1, residues, dtype=torch.bool), numbers)
        largest[residues] = weights.max().item()
    assert all(largest[residues] > 100 for residues in (5, 6, 7))  # one mask, which the noiser chooses
    assert 2.6 < max(value for residues, value in largest.items() if residues >= 8) < 2.7
    assert 1.8 < max(value for residues, value in largest.items() if residues >= 100) < 1.9


def test_gradient_reaches_both_kinds_of_scores_and_only_where_they_matter(batch, vocabulary):
    scores = random_scores(batch)
    corrupted = corrupt_batch(
        batch, keys_of(batch), vocabulary, random_rate=0.1, adversarial_rate=0.1, scores=scores, one_hot=True
    )
    weights = torch.randn(corrupted.one_hot.shape, generator=torch.Generator().manual_seed(0))
    (corrupted.one_hot * weights).sum().backward()
    residues = batch["residue_mask"]
    assert (scores.any_mask_scores.grad[residues] != 0).float().mean() > 0.99
    assert not scores.any_mask_scores.grad[~residues].any()
    assert (scores.option_scores.grad[corrupted.adversarial] != 0).any(dim=-1).all()
    assert not scores.option_scores.grad[~corrupted.adversarial].any()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_straight_through_is_the_gradient_of_the_relaxed_values(batch, vocabulary, temperature):
    """d one_hot / d score must equal that of the relaxation, with the hard values as its coefficients."""
    from adversarial_mlm.masking.keyed_random import ANY_MASK, MASK_OPTION, gumbel
    from adversarial_mlm.masking.sampling import rss

    scores, keys = random_scores(batch, dtype=torch.float64), keys_of(batch)
    length = batch["input_ids"].shape[1]
    corrupted = corrupt_batch(
        batch,
        keys,
        vocabulary,
        random_rate=0.1,
        adversarial_rate=0.1,
        scores=scores,
        temperature=temperature,
        one_hot=True,
    )
    weights = torch.randn(corrupted.one_hot.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (corrupted.one_hot * weights).sum().backward()

    # by hand: gain of masking position i adversarially over leaving it (with its random mask) alone …
    base_ids = torch.where(corrupted.adversarial, batch["input_ids"], corrupted.input_ids)
    gain_of = lambda ids: weights.gather(-1, ids[..., None])[..., 0]  # noqa: E731
    letters = torch.tensor(vocabulary.replacement_ids)
    of_option = torch.cat(
        [weights[..., vocabulary.mask_token_id, None], gain_of(batch["input_ids"])[..., None], weights[..., letters]],
        -1,
    )
    noisy = scores.option_scores.detach() + gumbel(keys, MASK_OPTION, length, 22)
    gain = of_option.gather(-1, noisy.argmax(dim=-1, keepdim=True))[..., 0] - gain_of(base_ids)
    # … through the relaxed choice of positions
    leaf = scores.any_mask_scores.detach().requires_grad_()
    adversarial_budget, _ = MaskingRules(0.1, adversarial_rate=0.1).budgets(batch["num_residues"])
    soft = rss(leaf, batch["residue_mask"], adversarial_budget, gumbel(keys, ANY_MASK, length), temperature)
    (soft * gain).sum().backward()
    assert torch.allclose(scores.any_mask_scores.grad, leaf.grad, atol=1e-9)
    # and the options through their softmax, where they were used
    p = torch.softmax(noisy / temperature, dim=-1)
    by_hand = p * (of_option - (p * of_option).sum(-1, keepdim=True)) / temperature * corrupted.adversarial[..., None]
    assert torch.allclose(scores.option_scores.grad, by_hand, atol=1e-9)


def test_masks_do_not_depend_on_padding_nor_on_the_other_rows(batch, vocabulary):
    keys, scores = keys_of(batch), random_scores(batch)
    together = corrupt_batch(batch, keys, vocabulary, random_rate=0.1, adversarial_rate=0.1, scores=scores)
    row, length = 4, int(batch["attention_mask"][4].sum())
    alone = {name: t[row : row + 1] if t.dim() == 1 else t[row : row + 1, :length] for name, t in batch.items()}
    alone_scores = NoiserOutput(
        any_mask_scores=scores.any_mask_scores[row : row + 1, :length],
        option_scores=scores.option_scores[row : row + 1, :length],
    )
    corrupted = corrupt_batch(
        alone, keys[row : row + 1], vocabulary, random_rate=0.1, adversarial_rate=0.1, scores=alone_scores
    )
    assert torch.equal(corrupted.input_ids[0], together.input_ids[row, :length])


def test_every_update_has_new_masks(batch, vocabulary):
    first, second = (corrupt_batch(batch, keys_of(batch, update), vocabulary, random_rate=0.2) for update in (0, 1))
    assert not torch.equal(first.random, second.random)


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.0, 1.0), (0.1, 0.2)])
def test_every_share_of_the_noisers_part_keeps_the_total(rates):
    rules = MaskingRules(rates[0], adversarial_rate=rates[1], blind=True, candidate_rate=rates[0] + rates[1])
    residues = torch.arange(1, 300)
    total = sum(rules.budgets(residues))
    for share in torch.linspace(0, 1, 101).tolist():
        adversarial, random = rules.with_adversarial_share(share).budgets(residues)
        assert torch.equal(adversarial + random, total) and (adversarial >= 0).all() and (random >= 0).all()
