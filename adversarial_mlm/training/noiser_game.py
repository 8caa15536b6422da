"""The noiser's side of the trainer: when it moves, what it climbs, and what both networks read."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.keyed_random import NOISER_PHASE, row_keys
from adversarial_mlm.masking.losses import IGNORE_INDEX, loss_weights, token_losses
from adversarial_mlm.models.attention_masks import encoder_mask
from adversarial_mlm.training.batch_schedule import micro_steps_before
from adversarial_mlm.training.cpu_dropout import QuickDropout
from adversarial_mlm.training.data_loading import noiser_batches
from adversarial_mlm.training.gradients import cosine, frozen, soft_embeddings
from adversarial_mlm.training.noiser_schedule import Alternation
from adversarial_mlm.training.packed_attention import padding_index_of, read_packed
from adversarial_mlm.training.rewards import NoiserReward
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.training.update_guard import NOISER, spoil_gradient
from adversarial_mlm.utils.ramp import Ramp


class NoiserTurns:
    """The half of [`AdversarialMLMTrainer`] that deals with its noiser. It is of no use alone."""

    def _set_up_noiser(self, args: AdversarialMLMTrainingArguments, noiser) -> None:
        self.noiser = noiser
        self._noiser_wrapped: nn.Module | None = noiser
        self._frozen_encoder: nn.Module | None = None  # as the noiser's updates call it: compiled, where that is asked
        self._noiser_iterator: Iterator | None = None
        self._next_noiser_update = 0  # of that iterator
        self._reward: NoiserReward | None = None
        self._rewarded_step = 0
        self._alternation = Alternation(args.noiser_steps, args.encoder_steps, args.shared_phase_counter)
        self._adversarial_share = Ramp(args.adversarial_share, "adversarial_share")
        self._reversal_strength = Ramp(args.reversal_strength, "reversal_strength")

    # ---- Both networks ----

    def _corrupt(self, inputs: dict, keys: torch.Tensor, differentiable: bool = False) -> CorruptedBatch:
        if self.noiser is None:
            return self.data_collator.corrupt(inputs, keys)
        return self.data_collator.corrupt(
            inputs,
            keys,
            differentiable=differentiable,
            one_hot=differentiable and self._reward.through_encoder,
            noiser=self._noiser_wrapped if differentiable else None,
            adversarial_share=self._adversarial_share(self.state.global_step),
        )

    def _read(self, model: nn.Module, corrupted: CorruptedBatch, inputs: dict, reversal: float | None = None) -> tuple:
        """The encoder's output on a corrupted batch, the cross-entropies `(batch, length)`, and what each counts."""
        read = {"input_ids": corrupted.input_ids}
        if corrupted.one_hot is not None:
            read = {"inputs_embeds": soft_embeddings(corrupted, self.model.get_input_embeddings(), reversal)}
        if "packed" in inputs:
            outputs = read_packed(model, inputs["packed"], padding_index_of(self.model), **read)
        else:
            mask = encoder_mask(self.model, corrupted.attention_mask, inputs.get("padded", True))
            outputs = model(**read, attention_mask=mask)
        labels, residues = corrupted.labels, inputs["residue_mask"]
        if self.args.weight_of_unmasked:
            labels = torch.where(residues, inputs["input_ids"], IGNORE_INDEX)
        weights = loss_weights(
            corrupted.masked,
            residues,
            None if corrupted.choice is None else corrupted.choice.importance,
            self.args.importance_exponent,
            self.args.weight_of_unmasked,
        )
        return outputs, token_losses(outputs.logits, labels), weights

    def _normalised(self, total: torch.Tensor | float, items: torch.Tensor) -> torch.Tensor:
        # times the processes, because DistributedDataParallel takes the mean of their gradients
        return total / items * self.accelerator.num_processes

    # ---- Turns ----

    def _noiser_is_trained(self) -> bool:
        """Whether the noiser has a part in this step, and learns from it."""
        if self.noiser is None or self.args.noiser_update == "none":
            return False
        return self._adversarial_share(self.state.global_step) > 0

    def _noiser_phase(self) -> None:
        """The updates of the noiser that come before this step of the encoder; often none."""
        updates = self._alternation.noiser_updates_before(self.state.global_step)
        if not updates:
            return
        if self._noiser_iterator is None or self._next_noiser_update != updates.start:
            self._noiser_iterator = self._noiser_batches(updates.start)
        dropout = self.args.encoder_dropout_in_noiser_phase
        with frozen(self.model, training=dropout), self._dropout_of_its_own(updates.start), self._quick_dropout():
            self.noiser.train()
            for update in updates:
                with self._clock("data"):
                    batches = [next(self._noiser_iterator) for _ in range(self.args.gradient_accumulation_steps)]
                with self._clock("noiser"):
                    batches = self._guard.remember(NOISER, update, batches)
                    self._noiser_update(update, self._number_rows(batches))
            self.noiser.eval()
        self._next_noiser_update = updates.stop

    def _quick_dropout(self) -> contextlib.AbstractContextManager:
        # what is compiled has kernels of its own, and what is computed twice has to come out the same
        # (who made the encoder may have switched that on, too)
        twice = any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())
        usual = self.args.device.type != "cpu" or self.args.torch_compile or twice
        return contextlib.nullcontext() if usual else QuickDropout()

    @contextlib.contextmanager
    def _dropout_of_its_own(self, update: int) -> Iterator[None]:
        # dropout in the noiser's phase must not shift the encoder's, which draws from the global generator
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.args.seed + update)
            yield

    def _noiser_update(self, update: int, batches: list[dict]) -> None:
        """One step up what the noiser is paid (`update_noiser` of Algorithm 4)."""
        items = self._get_num_items_in_batch(batches, self.args.device)
        total = torch.zeros((), device=self.args.device)
        chunks = [chunk for batch in batches for chunk in self._chunks(batch, self.args.packed_attention)]
        for index, chunk in enumerate(chunks):
            last = index == len(chunks) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            inputs = self._prepare_inputs(chunk)
            keys = row_keys(self.args.seed, NOISER_PHASE, update, inputs["row"])
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self._noiser_wrapped):
                pay = self._noiser_pay(inputs, keys, items)
                self.accelerator.backward(-spoil_gradient(pay))
            total += pay.detach()
        grad_norm = self._clip_noiser(self.accelerator.clip_grad_norm_)
        skipped = self._judge({NOISER: grad_norm})
        self.optimizer.step()
        self.noiser.zero_grad(set_to_none=True)
        self._noiser_figures.add(noiser_pay=torch.where(skipped, math.nan, total), noiser_grad_norm=grad_norm)

    def _noiser_pay(self, inputs: dict[str, torch.Tensor], keys: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """What the noiser climbs on a micro-batch; a scalar with a graph to the noiser."""
        corrupted = self._corrupt(inputs, keys, differentiable=True)
        through = self._reward.through_encoder
        with contextlib.nullcontext() if through else torch.no_grad():
            _, losses, weights = self._read(self._frozen_encoder, corrupted, inputs)
        pay = self._reward.direct(corrupted, losses.detach())
        if through:
            pay = pay + (losses * weights).sum()
        return self._normalised(pay, items)

    def _clip_noiser(self, clip) -> torch.Tensor:
        return clip(self.noiser.parameters(), self.args.noiser_max_grad_norm or math.inf)

    def _compare_half_batches(self, batch: dict) -> None:
        """Now and then: do two halves of a micro-batch pull the noiser the same way? The run itself is not changed."""
        every, step = self.args.noiser_cosine_steps, self.state.global_step
        if not every or step % every or len(batch["row"]) < 2:
            return
        inputs, wrapped, encoder = self._prepare_inputs(batch), self._noiser_wrapped, self._frozen_encoder
        keys = row_keys(self.args.seed, NOISER_PHASE, step, inputs["row"])
        items = torch.ones((), device=self.args.device)
        gradients = []
        self._noiser_wrapped = self.noiser  # a look that the other processes need not wait for
        self._frozen_encoder = self.model  # and for whose half batches nothing is compiled
        was_training = self.noiser.training
        self.noiser.train()  # a GRU on a GPU gives gradients in training mode only
        with frozen(self.model), self._dropout_of_its_own(step):
            for rows in (slice(0, len(keys) // 2), slice(len(keys) // 2, None)):
                half = {name: tensor[rows] for name, tensor in inputs.items()}
                pay = self._noiser_pay(half, keys[rows], items)
                gradients.append(torch.autograd.grad(pay, list(self.noiser.parameters())))
        self._noiser_wrapped, self._frozen_encoder = wrapped, encoder
        self.noiser.train(was_training)
        self._noiser_figures.add(noiser_cosine=cosine(*gradients))

    def _noiser_batches(self, first_update: int) -> Iterator[dict]:
        return noiser_batches(
            self.train_dataset,
            self.args,
            self._sequence_encoder(is_training=True),
            first_update,
            micro_steps_before(first_update, self._noiser_stages()),
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
