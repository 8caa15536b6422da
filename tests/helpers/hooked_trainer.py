"""A trainer whose game and guard can be watched or changed by overriding a method, as tests do."""

from adversarial_mlm import AdversarialMLMTrainer

_HOOKS = ("corrupt", "read", "update_noiser", "noiser_reward", "normalised", "compare_half_batches")


class HookedTrainer(AdversarialMLMTrainer):
    """Its methods of the names of the game's are called in their place, and call them; `check` is the guard's."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._plain = {name: getattr(self.game, name) for name in _HOOKS}
        for name in _HOOKS:
            setattr(self.game, name, getattr(self, name))

    def _prepare_for_training(self, *args, **kwargs):
        prepared = super()._prepare_for_training(*args, **kwargs)
        self._plain["check"] = self.guard.check
        self.guard.check = self.check
        return prepared

    def corrupt(self, *args, **kwargs):
        return self._plain["corrupt"](*args, **kwargs)

    def read(self, *args, **kwargs):
        return self._plain["read"](*args, **kwargs)

    def update_noiser(self, *args, **kwargs):
        return self._plain["update_noiser"](*args, **kwargs)

    def noiser_reward(self, *args, **kwargs):
        return self._plain["noiser_reward"](*args, **kwargs)

    def normalised(self, *args, **kwargs):
        return self._plain["normalised"](*args, **kwargs)

    def compare_half_batches(self, *args, **kwargs):
        return self._plain["compare_half_batches"](*args, **kwargs)

    def check(self, *args, **kwargs):
        return self._plain["check"](*args, **kwargs)
