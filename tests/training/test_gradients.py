import pytest
import torch

from adversarial_mlm import DataCollatorForAdversarialMLM
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.training.gradients import cosine, frozen, reverse_gradient, soft_embeddings


def test_reversal_keeps_the_value_and_turns_the_gradient():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse_gradient(x, 0.5)
    (y**2).sum().backward()
    assert torch.equal(y, x) and torch.equal(x.grad, -0.5 * 2 * x)


@pytest.mark.parametrize("reversal", [None, 2.0])
def test_soft_embeddings_are_those_of_the_ids_and_teach_the_table_alike(
    make_noiser, make_encoder, tokenizer, proteins, reversal
):
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser(), max_length=64)
    batch = collator([{"sequence": s} for s in proteins[:6]])
    corrupted = collator.corrupt(batch, row_keys(0, ENCODER_PHASE, 0, torch.arange(6)), differentiable=True)
    table = make_encoder().get_input_embeddings()
    weights = torch.randn(*batch["input_ids"].shape, 16, generator=torch.Generator().manual_seed(0))

    plain = table(corrupted.input_ids)
    (plain * weights).sum().backward()
    expected = table.weight.grad.clone()
    table.zero_grad()
    soft = soft_embeddings(corrupted, table, reversal)
    (soft * weights).sum().backward()
    assert torch.equal(soft, plain) and torch.equal(table.weight.grad, expected)
    assert collator.noiser.score.weight.grad.any()


def test_frozen_gives_everything_back(make_encoder):
    encoder = make_encoder()
    encoder.get_input_embeddings().weight.requires_grad_(False)
    encoder.train()
    with frozen(encoder):
        assert not any(p.requires_grad for p in encoder.parameters()) and not encoder.training
    with frozen(encoder, training=True):
        assert not any(p.requires_grad for p in encoder.parameters()) and encoder.training
    assert encoder.training and not encoder.get_input_embeddings().weight.requires_grad
    assert sum(not p.requires_grad for p in encoder.parameters()) == 1


def test_cosine_of_gradients():
    a = [torch.tensor([1.0, 0.0]), torch.tensor([[2.0]])]
    assert cosine(a, a) == 1 and cosine(a, [-part for part in a]) == -1
    assert cosine(a, [torch.tensor([0.0, 3.0]), torch.tensor([[0.0]])]) == 0
    assert cosine(a, [torch.zeros(2), torch.zeros(1, 1)]) == 0
