"""When the noiser moves, and how strongly: functions of the encoder's step alone, so that nothing has to be saved."""

UPDATES = ("alternate", "reversal", "none")


class Alternation:
    """`noiser_steps` updates of the noiser before every `encoder_steps` of the encoder (Algorithm 5).

    Args:
        noiser_steps (`int`): `n_noiser`.
        encoder_steps (`int`): `n_encoder`.
        shared_counter (`bool`, *optional*, defaults to `False`): Whether a phase ends where one counter of both kinds
            of updates is a multiple of its length (`i mod n`, as printed). Where the two lengths differ the phases
            then have other lengths than those asked for: 10 and 5 make 10, 5, 5, 5, 5 … updates.
    """

    def __init__(self, noiser_steps: int, encoder_steps: int, shared_counter: bool = False):
        self.noiser_steps, self.encoder_steps, self.shared_counter = noiser_steps, encoder_steps, shared_counter
        self._start_over()

    def _start_over(self) -> None:
        self._counter = self._step = self._update = 0  # where the present cycle begins
        self._measure()

    def _measure(self) -> None:
        """Lengths of the present cycle's two phases."""
        counted = self._counter if self.shared_counter else 0
        self._noiser = self.noiser_steps - counted % self.noiser_steps
        counted = counted + self._noiser if self.shared_counter else 0
        self._encoder = self.encoder_steps - counted % self.encoder_steps

    def _go_to(self, step: int) -> None:
        """Make the cycle that the encoder's update number `step` belongs to the present one."""
        if step < self._step:
            self._start_over()
        while step >= self._step + self._encoder:
            self._counter += self._noiser + self._encoder
            self._step, self._update = self._step + self._encoder, self._update + self._noiser
            self._measure()

    def noiser_updates_before(self, step: int) -> range:
        """Which noiser updates, counted from 0, come before the encoder's update number `step`; often none."""
        self._go_to(step)
        if step != self._step:
            return range(0)
        return range(self._update, self._update + self._noiser)

    def first_update_from(self, step: int) -> int:
        """Number of the first noiser update that comes when `step` updates of the encoder are done, or later."""
        self._go_to(step)
        return self._update if step == self._step else self._update + self._noiser
