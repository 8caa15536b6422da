import math

import torch

from adversarial_mlm.masking.losses import (
    IGNORE_INDEX,
    learnability,
    loss_weights,
    soft_target_losses,
    token_losses,
)


def test_loss_of_a_uniform_prediction_is_the_logarithm_of_the_vocabulary():
    labels = torch.tensor([[3, IGNORE_INDEX, 7]])
    losses = token_losses(torch.zeros(1, 3, 30), labels)
    assert torch.allclose(losses, torch.tensor([[math.log(30), 0, math.log(30)]]))


def test_unscored_positions_get_no_gradient():
    logits = torch.randn(1, 2, 5, requires_grad=True)
    token_losses(logits, torch.tensor([[1, IGNORE_INDEX]])).sum().backward()
    assert logits.grad[0, 0].any() and not logits.grad[0, 1].any()


def test_half_precision_logits_give_float32_losses():
    assert token_losses(torch.zeros(1, 1, 5, dtype=torch.bfloat16), torch.tensor([[1]])).dtype == torch.float32


def test_weights_of_masked_and_other_residues():
    masked = torch.tensor([[True, False, True, False]])
    residues = torch.tensor([[True, True, True, False]])
    importance = torch.tensor([[4.0, 9.0, 0.25, 1.0]], requires_grad=True)
    assert loss_weights(masked, residues).tolist() == [[1, 0, 1, 0]]
    assert loss_weights(masked, residues, importance, 0.5).tolist() == [[2, 0, 0.5, 0]]
    weights = loss_weights(masked, residues, importance, 1.0, unmasked_weight=0.3)
    assert torch.allclose(weights, torch.tensor([[4.0, 0.3, 0.25, 0]])) and not weights.requires_grad


def test_learnability_is_the_divergence_from_the_teacher_over_the_residues():
    torch.manual_seed(0)
    ids, taught, logits = torch.tensor([2, 3, 5, 7]), torch.randn(2, 3, 9), torch.randn(2, 3, 9)
    p, q = (torch.softmax(scores[..., ids], dim=-1) for scores in (taught, logits))
    expected = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(dim=-1)
    torch.testing.assert_close(learnability(taught, logits, ids), expected)
    assert learnability(taught, taught + 3, ids).abs().max() < 1e-6
    # other tokens do not count
    logits[..., 0] += 5
    torch.testing.assert_close(learnability(taught, logits, ids), expected)
    assert learnability(taught.bfloat16(), logits.bfloat16(), ids).dtype == torch.float32


def test_a_certain_teacher_is_a_hard_target_and_any_other_its_mean():
    torch.manual_seed(0)
    ids, logits = torch.arange(2, 9), torch.randn(1, 4, 9, requires_grad=True)
    labels = torch.tensor([[2, 8, 5, 5]])
    certain = 200.0 * torch.nn.functional.one_hot(labels, 9)
    torch.testing.assert_close(soft_target_losses(certain, logits, ids), token_losses(logits, labels))
    taught = torch.randn(1, 4, 9)
    shares = torch.softmax(taught[..., 2:], dim=-1)
    hard = torch.stack([token_losses(logits, torch.full((1, 4), label)) for label in range(2, 9)], dim=-1)
    torch.testing.assert_close(soft_target_losses(taught, logits, ids), (shares * hard).sum(dim=-1))
    soft_target_losses(taught, logits, ids).sum().backward()
    assert logits.grad.abs().max() > 0
