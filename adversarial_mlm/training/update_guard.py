"""Updates whose loss or gradient is not finite: left out on all processes, counted, and in the end the run's end.

Nothing here waits for the device at a step. Whether an update is good is a number on the device, made from norms of
gradients that are the same on all processes, and PyTorch's fused optimizers read it there (their `found_inf`, which
`torch.amp.GradScaler` sets, too). The counts are read when the trainer logs.
"""

import json
import logging
import math
import os
from collections import deque

import torch
from accelerate.utils import gather_object
from torch import nn

from adversarial_mlm.masking.data_collator import RECORDS
from adversarial_mlm.saving.run_files import RECORDS_FILE
from adversarial_mlm.utils.errors import NonFiniteError

ENCODER, NOISER = 0, 1
_NETWORKS = ("encoder", "noiser")

logger = logging.getLogger(__name__)


def spoil_gradient(loss: torch.Tensor) -> torch.Tensor:
    """The same loss, whose gradient is nan where the loss is not finite.

    An infinite loss may have a finite gradient (a cross-entropy has). This way a bad loss on one process is in the
    gradients of all, with no message of its own, and a `GradScaler` sees it, too.

    Args:
        loss (`torch.Tensor`): A scalar.

    Returns:
        `torch.Tensor`, the loss; nan where it is not finite.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)


def leave_out_step(optimizer: torch.optim.Optimizer, skipped: torch.Tensor) -> None:
    """Let the next `step` of an optimizer change nothing where `skipped`: no parameter, no moment, no count.

    A fused optimizer reads the flag on the device. For any other one it is read on the host, which waits for the
    device at every update.

    Args:
        optimizer (`torch.optim.Optimizer`): PyTorch's own, not accelerate's wrapper.
        skipped (`torch.Tensor`): A scalar, bool.
    """
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if fused and getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = skipped.float()
    elif skipped.item():
        step = optimizer.step

        def nothing(*args, **kwargs) -> None:
            optimizer.step = step

        optimizer.step = nothing


class UpdateGuard:
    """Which updates are not finite, how many there were, and what was in their batches.

    Args:
        limit (`int`): How many updates of one network in a row may be skipped before the run stops, and how many are
            remembered for that; 0 for no limit.
        device (`torch.device`): Of the gradients.
    """

    def __init__(self, limit: int, device: torch.device | str = "cpu"):
        self.limit = limit
        self.skipped = torch.zeros((), dtype=torch.bool, device=device)  # the latest update
        self._new = torch.zeros(len(_NETWORKS), dtype=torch.int64, device=device)  # since the last look
        self._in_a_row = torch.zeros_like(self._new)
        self._updates = [0] * len(_NETWORKS)  # since the last look
        self._batches = [deque(maxlen=limit) for _ in _NETWORKS]
        self.totals = [0] * len(_NETWORKS)  # skipped, as far as looked at
        self.too_many: int | None = None  # the network that has reached the limit

    def remember(self, network: int, update: int, batches: list[dict]) -> list[dict]:
        """Keep the names of an update's records, and return its micro-batches without them.

        Args:
            network (`int`): `ENCODER` or `NOISER`.
            update (`int`): Its number, from 0.
            batches (`list[dict]`): Micro-batches of this process, with [`RECORDS`] where the loader names them.
        """
        names = [name for batch in batches for name in batch.get(RECORDS, [])]
        self._batches[network].append((update, names))
        return [{key: value for key, value in batch.items() if key != RECORDS} for batch in batches]

    def judge(self, norms: dict[int, torch.Tensor]) -> torch.Tensor:
        """Whether an update is to be skipped; counts it.

        Args:
            norms (`dict[int, torch.Tensor]`): Of each network that is about to move, the norm of its gradient, the
                same on all processes. One that is not finite holds back all.

        Returns:
            `torch.Tensor`, a scalar, bool.
        """
        self.skipped = ~torch.isfinite(torch.stack(list(norms.values()))).all()
        for network in norms:
            self._updates[network] += 1
            self._new[network] += self.skipped
            self._in_a_row[network] = (self._in_a_row[network] + 1) * self.skipped
        return self.skipped

    def look(self) -> dict[int, tuple[int, int]]:
        """Of each network that made any since the last look: its updates, and how many of them were skipped.

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


class FiniteUpdates:
    """The part of [`AdversarialMLMTrainer`] that leaves out updates that are not finite. It is of no use alone."""

    _guard: UpdateGuard | None = None  # while training, and after it

    def _prepare_for_training(self, *args, **kwargs):
        self._guard = UpdateGuard(self.args.max_skipped_updates, self.args.device)
        return super()._prepare_for_training(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        # what the update adds to these is taken back where it is skipped
        self._sums_before = self._statistics.sums.clone(), self._tr_loss.clone()
        return self._guard.remember(ENCODER, self.state.global_step, batches), num_items

    def _get_grad_norm(self, model, grad_norm=None):
        # called once before every step of the optimizer, when the gradients are complete and no longer scaled
        norms = {ENCODER: super()._get_grad_norm(model, grad_norm)}
        if self.noiser is not None and any(p.grad is not None for p in self.noiser.parameters()):
            norms[NOISER] = self._clip_noiser(nn.utils.clip_grad_norm_)
        skipped = self._judge(norms)
        if NOISER in norms:
            self._noiser_figures.add(noiser_grad_norm=norms[NOISER])
        statistics, loss = self._sums_before
        self._statistics.sums = torch.where(skipped, statistics, self._statistics.sums)
        self._tr_loss = torch.where(skipped, loss, self._tr_loss)
        return norms[ENCODER]

    def _judge(self, norms: dict[int, torch.Tensor]) -> torch.Tensor:
        skipped = self._guard.judge(norms)
        if self.accelerator.scaler is None:  # which looks at the same gradients, and leaves out the step by itself
            leave_out_step(self.optimizer.optimizer, skipped)
        return skipped

    def _skipped_figures(self, logs: dict[str, float]) -> dict[str, float]:
        """How many updates were skipped since the last entry, and the mean loss of the others."""
        seen = self._guard.look()
        figures = {"skipped_updates": float(seen[ENCODER][1])}
        if NOISER in seen:
            figures["noiser_skipped_updates"] = float(seen[NOISER][1])
        made, skipped = seen[ENCODER]
        if skipped:
            figures["loss"] = logs["loss"] * made / (made - skipped) if skipped < made else math.nan
        for network, (made, skipped) in seen.items():
            if skipped and self.is_world_process_zero():
                logger.warning(
                    f"step {self.state.global_step}: {skipped} of the last {made} updates of the {_NETWORKS[network]} "
                    "were skipped, as their loss or gradient was not finite"
                )
        return figures

    def _stop_where_too_many(self) -> None:
        """End the run where a network has reached the limit; on all processes, which count the same.

        Raises:
            NonFiniteError: Naming the file with the records.
        """
        network = None if self._guard is None else self._guard.too_many
        if network is None:
            return
        entries = [self._name_records(network, *batch) for batch in self._guard.batches_of(network)]
        entries = sorted(gather_object(entries), key=lambda entry: (entry["update"], entry["rank"]))
        path = os.path.join(self.args.output_dir, RECORDS_FILE)
        if self.is_world_process_zero():
            lines = ",\n".join(json.dumps(entry, default=str) for entry in entries)
            with open(path, "w", encoding="utf-8") as file:
                file.write(f'{{"step": {self.state.global_step}, "updates": [\n{lines}\n]}}\n')
        self.accelerator.wait_for_everyone()
        raise NonFiniteError(
            f"stopped at step {self.state.global_step}: the last {self._guard.limit} updates of the "
            f"{_NETWORKS[network]} (max_skipped_updates) or more were skipped, as their loss or gradient was not "
            f"finite; {path} names the records of their batches"
        )

    def _name_records(self, network: int, update: int, names: list[tuple]) -> dict:
        records, ids = ([name[part] for name in names] for part in (0, 1))
        return {
            "network": _NETWORKS[network],
            "update": update + 1,
            "rank": self.accelerator.process_index,
            "records": records,  # of a stream their places in it
            "ids": None if all(name is None for name in ids) else ids,
        }

    def _finalize_training(self, *args, **kwargs):
        self._guard.look()
        self._stop_where_too_many()
        made, skipped = self.state.global_step - self._initial_global_step, self._guard.totals[ENCODER]
        if skipped:  # `train_loss` is the mean of what was made
            share = made / (made - skipped) if skipped < made else math.nan
            self._total_loss_scalar, self._tr_loss = self._total_loss_scalar * share, self._tr_loss * share
        return super()._finalize_training(*args, **kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "train_loss" in logs:  # the last entry; others count from one to the next
            totals = zip(("train_skipped_updates", "train_noiser_skipped_updates"), self._guard.totals, strict=True)
            logs = {**logs, **{name: float(total) for name, total in totals if total}}
        super().log(logs, *args, **kwargs)
