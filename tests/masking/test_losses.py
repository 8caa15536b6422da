import math

import torch

from adversarial_mlm.masking.losses import IGNORE_INDEX, loss_weights, token_losses


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
