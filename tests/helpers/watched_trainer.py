"""A trainer whose updates go wrong where a test wants it."""

import math

from tests.helpers.hooked_trainer import HookedTrainer

ALWAYS = {(network, update) for network in ("encoder", "noiser") for update in range(99)}


class Watched(HookedTrainer):
    """Knows which update is being made; spoils the losses of some, and simply leaves out the step of others.

    Attributes:
        spoiled: Updates whose losses are spoiled, such as `("encoder", 3)`; anything with `in`.
        left_out: Updates whose step is left out.
        fault: What is added to every loss.
        ranks: Processes on which the losses are spoiled.
    """

    spoiled, left_out, fault, ranks = set(), set(), math.nan, (0,)
    now = None  # none, as at the look at two half batches

    def compute_loss(self, *args, **kwargs):
        self.now = ("encoder", self.state.global_step)
        return super().compute_loss(*args, **kwargs)

    def update_noiser(self, update, batches, *others):
        self.now = ("noiser", update)
        return super().update_noiser(update, batches, *others)

    def read(self, *args, **kwargs):
        outputs, losses, weights = super().read(*args, **kwargs)
        if self.now in self.spoiled and self.accelerator.process_index in self.ranks:
            losses = losses + self.fault  # an infinite one leaves the gradient finite
        return outputs, losses, weights

    def check(self, norms, optimizer=None):
        optimizer = self.optimizer.optimizer
        step, skipped = optimizer.step, super().check(norms, optimizer)
        if self.now in self.left_out:

            def nothing(*args, **kwargs):
                optimizer.step = step

            optimizer.step = nothing
        return skipped


def watched(**attributes) -> type[Watched]:
    return type("Watched", (Watched,), attributes)
