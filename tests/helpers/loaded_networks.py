"""What it means that a network came back from a file as it was."""

import torch
from torch import nn


def check_same_weights(loaded: nn.Module, saved: nn.Module) -> None:
    """Raises AssertionError unless both have the same tensors under the same names, to the last bit.

    What they compute may differ in the last bits: on some processors these depend on where the weights lie in memory.
    """
    tensors, expected = loaded.state_dict(), saved.state_dict()
    assert tensors.keys() == expected.keys()
    different = [name for name, tensor in expected.items() if not torch.equal(tensors[name], tensor)]
    assert not different, different
