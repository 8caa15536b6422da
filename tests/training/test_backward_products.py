"""Which matrix products a backward pass has: in the noiser's turn none for the encoder's weights."""

from collections import Counter

import datasets
import pytest
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.helpers.hooked_trainer import HookedTrainer

HIDDEN, INNER, VOCABULARY, LAYERS = 16, 32, 30, 2  # of make_encoder; the noiser has none of these sizes
LINEAR = Counter({(HIDDEN, HIDDEN): 4 * LAYERS + 1, (HIDDEN, INNER): 2 * LAYERS, (HIDDEN, VOCABULARY): 1})
pytestmark = pytest.mark.slow  # the profiler takes its time

THROUGH_THE_TABLE = Counter({(HIDDEN, VOCABULARY): 2})  # the noiser's one-hots times the embeddings, and back
ROWS, LENGTH = 3, 17


class Profiled(HookedTrainer):
    """Notes the shapes of all matrix products of one update of each network."""

    def __init__(self, *args, **kwargs):
        self.products = {}
        super().__init__(*args, **kwargs)

    def _noted(self, network, job, *args):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            result = job(*args)
        self.products[network] = [
            tuple(tuple(shape) for shape in event.input_shapes[-2:])
            for event in profiler.events()
            if event.name in ("aten::mm", "aten::bmm")  # a forward pass has addmm, and sdpa's own kernel
        ]
        return result

    def update_noiser(self, *args):
        return self._noted("noiser", super().update_noiser, *args)

    def training_step(self, *args):
        return self._noted("encoder", super().training_step, *args)


@pytest.fixture
def dataset(proteins):
    """One length, so that tokens can be told from everything else by their number."""
    return datasets.Dataset.from_dict({"sequence": [protein[: LENGTH - 2] for protein in proteins[:40]]})


def for_weights(products) -> Counter:
    """Products that sum over the tokens into a matrix of the encoder: the gradients of its weights."""
    found = Counter()
    for (*_, rows, inner), (*_, columns) in products:
        shape = tuple(sorted((rows, columns)))
        if inner == ROWS * LENGTH and shape in LINEAR:
            found[shape] += 1
    return found


def for_inputs(products) -> Counter:
    """Products of all tokens with a matrix of the encoder: the gradients of what its layers read."""
    found = Counter()
    for (*_, rows, inner), (*_, columns) in products:
        shape = tuple(sorted((inner, columns)))
        if rows == ROWS * LENGTH and shape in LINEAR:
            found[shape] += 1
    return found


def run(make_trainer, **settings) -> dict[str, list]:
    trainer = make_trainer(
        cls=Profiled, max_steps=1, per_device_train_batch_size=ROWS, noiser_cosine_steps=0, **settings
    )
    trainer.train()
    shapes = Counter(
        tuple(sorted(module.weight.shape)) for module in trainer.model.modules() if isinstance(module, nn.Linear)
    )
    assert shapes == LINEAR
    own = {tuple(sorted(p.shape)) for p in trainer.noiser.parameters()}
    assert not own & LINEAR.keys()  # so that no product of the noiser's is taken for one of the encoder's
    return trainer.products


def test_in_the_noisers_turn_the_encoder_has_gradients_of_its_inputs_alone(make_trainer):
    products = run(make_trainer)
    assert for_weights(products["encoder"]) == LINEAR
    assert for_inputs(products["encoder"]) == LINEAR
    assert not for_weights(products["noiser"])
    assert for_inputs(products["noiser"]) == LINEAR + THROUGH_THE_TABLE


def test_a_reward_without_a_gradient_through_the_encoder_has_neither(make_trainer):
    products = run(make_trainer, noiser_reward="credit")
    assert not for_weights(products["noiser"]) and not for_inputs(products["noiser"])
    assert for_weights(products["encoder"]) == LINEAR


def test_one_backward_pass_for_both_has_each_product_once(make_trainer):
    products = run(make_trainer, noiser_update="reversal")
    assert "noiser" not in products
    assert for_weights(products["encoder"]) == LINEAR
    assert for_inputs(products["encoder"]) == LINEAR + THROUGH_THE_TABLE
