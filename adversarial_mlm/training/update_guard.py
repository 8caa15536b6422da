"""Leave out updates whose loss or gradient is not finite, count them, and stop a run that has too many in a row.

Nothing here waits for the device at a step. Whether an update is finite is a flag on the device, computed from the
norms of gradients that are the same on all processes. PyTorch's fused optimizers read the flag there (their
`found_inf`, which `torch.amp.GradScaler` sets, too). The counts are read when the trainer logs.
"""

import json
import logging
import math
import os
from collections import deque

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from adversarial_mlm.masking.data_collator import RECORDS
from adversarial_mlm.saving.run_files import RECORDS_FILE
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import NonFiniteError

ENCODER, NOISER = 0, 1
_NETWORKS = ("encoder", "noiser")

logger = logging.getLogger(__name__)


def spoil_gradient(loss: torch.Tensor) -> torch.Tensor:
    """The same loss, with a gradient of nan if the loss is not finite.

    An infinite loss may have a finite gradient (a cross-entropy has). With this, a bad loss on one process reaches the
    gradients of all processes without extra communication, and a `GradScaler` sees it.

    Args:
        loss (`torch.Tensor`): A scalar.

    Returns:
        `torch.Tensor`, the loss; nan where it is not finite.
    """
    value = loss.detach()
    return loss * (value - value + 1)  # the difference is 0 if the loss is finite, and nan otherwise


def leave_out_step(optimizer: torch.optim.Optimizer, skipped: torch.Tensor) -> None:
    """Let the next `step` of an optimizer change nothing if `skipped`: no parameter, no moment, no step count.

    A fused optimizer reads the flag on the device. For other optimizers the host reads it, and waits for the device at
    every update.

    Args:
        optimizer (`torch.optim.Optimizer`): PyTorch's own, not accelerate's wrapper.
        skipped (`torch.Tensor`): A scalar, bool.
    """
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if fused and getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]  # read by fused optimizers only
    elif skipped.item():
        step = optimizer.step

        def nothing(*args, **kwargs) -> None:
            optimizer.step = step  # type: ignore[method-assign]

        optimizer.step = nothing  # type: ignore[method-assign,assignment]  # until it was called once


class UpdateGuard:
    """Which updates are not finite, how many there were, and which records were in their batches.

    Args:
        limit (`int`): `max_skipped_updates`: how many updates of one network in a row may be skipped before the run
            stops, and how many are remembered for the message; 0 for no limit.
        device (`torch.device`): Device of the gradients.
        scaled (`bool`, *optional*, defaults to `False`): Whether a `GradScaler` skips the steps; it checks the same
            gradients.

    Attributes:
        skipped (`torch.Tensor`): A scalar, bool: whether the latest update was skipped.
        totals (`list[int]`): Skipped updates of encoder and noiser, as far as they were read back.
    """

    def __init__(self, limit: int, device: torch.device | str = "cpu", scaled: bool = False):
        self.limit, self.scaled = limit, scaled
        self.skipped = torch.zeros((), dtype=torch.bool, device=device)
        self.totals = [0] * len(_NETWORKS)
        self.too_many: int | None = None  # the network that has reached the limit
        self._new = torch.zeros(len(_NETWORKS), dtype=torch.int64, device=device)  # since the last look
        self._in_a_row = torch.zeros_like(self._new)
        self._updates = [0] * len(_NETWORKS)  # since the last look
        self._batches: list[deque] = [deque(maxlen=limit) for _ in _NETWORKS]

    def record(self, network: int, update: int, batches: list[dict]) -> list[dict]:
        """Remember the records of an update, and return its micro-batches without their names.

        Args:
            network (`int`): `ENCODER` or `NOISER`.
            update (`int`): Number of the update, from 0.
            batches (`list[dict]`): Micro-batches of this process, with [`RECORDS`] if the loader names them.
        """
        names = [name for batch in batches for name in batch.get(RECORDS, [])]
        self._batches[network].append((update, names))
        return [{key: value for key, value in batch.items() if key != RECORDS} for batch in batches]

    def check(self, norms: dict[int, torch.Tensor], optimizer: torch.optim.Optimizer | None = None) -> torch.Tensor:
        """Whether to skip an update. It is counted.

        Args:
            norms (`dict[int, torch.Tensor]`): Norm of the gradient of each network in this update, the same on all
                processes. If one is not finite, no network is updated.
            optimizer (`torch.optim.Optimizer`, *optional*): PyTorch's own. Its next step changes nothing if the update
                is skipped.

        Returns:
            `torch.Tensor`, a scalar, bool.
        """
        # a norm minus itself is 0 if it is finite, and nan otherwise
        difference, *others = (norm - norm for norm in norms.values())
        for other in others:
            difference = difference + other
        self.skipped = difference != 0
        for network in norms:
            self._updates[network] += 1
        whole = len(norms) == len(_NETWORKS)
        for new, in_a_row in (
            [(self._new, self._in_a_row)] if whole else [(self._new[n], self._in_a_row[n]) for n in norms]
        ):
            new.add_(self.skipped)
            in_a_row.add_(1).mul_(self.skipped)
        if optimizer is not None and not self.scaled:
            leave_out_step(optimizer, self.skipped)
        return self.skipped

    def look(self) -> dict[int, tuple[int, int]]:
        """For each network that made updates since the last look: how many, and how many of them were skipped.

        Reads the counts back from the device, and finds out whether the limit is reached.
        """
        new, in_a_row = torch.stack([self._new, self._in_a_row]).tolist()
        self._new = torch.zeros_like(self._new)
        seen = {n: (made, new[n]) for n, made in enumerate(self._updates) if made}
        self._updates = [0] * len(_NETWORKS)
        self.totals = [total + count for total, count in zip(self.totals, new, strict=True)]
        too_many = [network for network, count in enumerate(in_a_row) if 0 < self.limit <= count]
        self.too_many = too_many[0] if too_many else None
        return seen

    def batches_of(self, network: int) -> list[tuple[int, list]]:
        """The latest updates of a network, at most `limit`, with the names of this process's records in them."""
        return list(self._batches[network])

    # ---- Figures ----

    def figures(self, loss: float, step: int, warn: bool = True) -> dict[str, float]:
        """Figures for a training entry of the log: updates skipped since the last one, and the loss of the others.

        Args:
            loss (`float`): The mean over all updates since the last entry, in which a skipped one counts 0.
            step (`int`): For the warning.
            warn (`bool`, *optional*, defaults to `True`): Whether to warn if updates were skipped.
        """
        seen = self.look()
        figures = {"skipped_updates": float(seen[ENCODER][1])}
        if NOISER in seen:
            figures["noiser_skipped_updates"] = float(seen[NOISER][1])
        if seen[ENCODER][1]:
            figures["loss"] = loss * mean_of_made(*seen[ENCODER])
        for network, (made, skipped) in seen.items():
            if skipped and warn:
                logger.warning(
                    f"step {step}: {skipped} of the last {count(made, 'update')} of the {_NETWORKS[network]} "
                    f"{verb(skipped, 'was', 'were')} skipped because their loss or gradient was not finite"
                )
        return figures

    def total_figures(self) -> dict[str, float]:
        """Figures for the last entry of the log: the updates skipped in the whole run, where there were any."""
        names = ("train_skipped_updates", "train_noiser_skipped_updates")
        return {name: float(total) for name, total in zip(names, self.totals, strict=True) if total}

    # ---- The limit ----

    def stop_if_too_many(self, step: int, output_dir: str, rank: int, main_process: bool) -> None:
        """End the run if a network has reached the limit; on all processes, which count the same.

        Raises:
            NonFiniteError: Naming `nonfinite_records.json`, which lists the records of the skipped batches.
        """
        if self.too_many is None:
            return
        network = self.too_many
        entries = gather_object([_entry(network, update, rank, names) for update, names in self.batches_of(network)])
        path = os.path.join(output_dir, RECORDS_FILE)
        if main_process:
            entries = sorted(entries, key=lambda entry: (entry["update"], entry["rank"]))
            lines = ",\n".join(json.dumps(entry, default=str) for entry in entries)
            with open(path, "w", encoding="utf-8") as file:
                file.write(f'{{"step": {step}, "updates": [\n{lines}\n]}}\n')
        PartialState().wait_for_everyone()  # the file is there before any process ends
        raise NonFiniteError(
            f"stopped at step {step}: the last {count(self.limit, 'update')} of the {_NETWORKS[network]} "
            "(max_skipped_updates) "
            f"or more were skipped because their loss or gradient was not finite; {path} names the records of their "
            "batches"
        )


def mean_of_made(updates: int, skipped: int) -> float:
    """Factor from a mean over all updates, in which skipped ones count 0, to the mean of the others; nan if none."""
    return updates / (updates - skipped) if skipped < updates else math.nan


def _entry(network: int, update: int, rank: int, names: list[tuple]) -> dict:
    records, ids = ([name[part] for name in names] for part in (0, 1))
    return {
        "network": _NETWORKS[network],
        "update": update + 1,
        "rank": rank,
        "records": records,  # of a stream, their indices in it
        "ids": None if all(name is None for name in ids) else ids,
    }
