"""When the noiser is updated: a function of the encoder's step, so a checkpoint need not save it."""

UPDATES = ("alternate", "reversal", "none")


class Alternation:
    """`noiser_steps` updates of the noiser before every `encoder_steps` of the encoder (Algorithm 5).

    Args:
        noiser_steps (`int`): Noiser updates per cycle (`n_noiser`).
        encoder_steps (`int`): Encoder updates per cycle (`n_encoder`).
        shared_counter (`bool`, *optional*, defaults to `False`): Whether a phase ends when one counter of all updates
            is a multiple of its length (`i mod n`, as Algorithm 5 is printed). If the two lengths differ, phases then
            have other lengths: 10 and 5 give 10, 5, 5, 5, 5 … updates.
    """

    def __init__(self, noiser_steps: int, encoder_steps: int, shared_counter: bool = False):
        self.noiser_steps, self.encoder_steps, self.shared_counter = noiser_steps, encoder_steps, shared_counter
        self._start_over()

    def _start_over(self) -> None:
        self._counter = self._step = self._update = 0  # at the start of the current cycle
        self._measure()

    def _measure(self) -> None:
        """Compute the lengths of the two phases of the current cycle."""
        counted = self._counter if self.shared_counter else 0
        self._noiser = self.noiser_steps - counted % self.noiser_steps
        counted = counted + self._noiser if self.shared_counter else 0
        self._encoder = self.encoder_steps - counted % self.encoder_steps

    def _go_to(self, step: int) -> None:
        """Make the cycle of the encoder's update number `step` the current one."""
        if step < self._step:
            self._start_over()
        while step >= self._step + self._encoder:
            self._counter += self._noiser + self._encoder
            self._step, self._update = self._step + self._encoder, self._update + self._noiser
            self._measure()

    def noiser_updates_before(self, step: int) -> range:
        """Numbers of the noiser updates just before the encoder's update number `step`, from 0; often none."""
        self._go_to(step)
        if step != self._step:
            return range(0)
        return range(self._update, self._update + self._noiser)

    def first_update_from(self, step: int) -> int:
        """Number of the first noiser update after `step` updates of the encoder."""
        self._go_to(step)
        return self._update if step == self._step else self._update + self._noiser
