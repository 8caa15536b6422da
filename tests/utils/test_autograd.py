import pytest
import torch

from adversarial_mlm.utils.autograd import differentiable_once


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @differentiable_once("this square", "use x * x")
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * gradient


def test_the_first_derivative_is_as_without_it():
    x = torch.tensor(3.0, requires_grad=True)
    _Square.apply(x).backward()
    assert x.grad == 6


@pytest.mark.parametrize("with_another_path", [False, True])
def test_a_graph_of_the_gradient_is_refused_whether_or_not_the_incoming_one_has_a_graph(with_another_path):
    x = torch.tensor(3.0, requires_grad=True)
    value = _Square.apply(x) + (x**3 if with_another_path else 0)
    with pytest.raises(RuntimeError, match="^this square has no second derivative, .* asks for one: use x \\* x$"):
        torch.autograd.grad(value, x, create_graph=True)
