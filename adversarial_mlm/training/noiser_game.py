"""The game between noiser and encoder: what is masked, what the encoder reads of it, and how the noiser learns.

Algorithms 2 to 4 of the paper, apart from the encoder's own update, which is the trainer's `compute_loss`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import recursively_apply
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.data_collator import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, NOISER_PHASE, row_keys
from adversarial_mlm.masking.losses import IGNORE_INDEX, loss_weights, token_losses
from adversarial_mlm.masking.protein_collator import DataCollatorForChosenProteinsMLM
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.attention_masks import encoder_mask
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.training.chosen_proteins import ChoiceLearner, ProteinChoice
from adversarial_mlm.training.compiled_masks import compiled_random_masks
from adversarial_mlm.training.cpu_dropout import QuickDropout
from adversarial_mlm.training.gradients import cosine, frozen, soft_embeddings
from adversarial_mlm.training.metrics_log import Means
from adversarial_mlm.training.micro_batches import MicroBatches
from adversarial_mlm.training.noiser_schedule import Alternation
from adversarial_mlm.training.packed_attention import read_packed
from adversarial_mlm.training.precision import autocast_dtype, compiled_as, not_compiled
from adversarial_mlm.training.rewards import REWARDS, NoiserReward
from adversarial_mlm.training.teacher import Teacher
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.training.update_guard import NOISER, UpdateGuard, spoil_gradient
from adversarial_mlm.utils.hardware import on_device, sent
from adversarial_mlm.utils.ramp import Ramp

_ON_HOST = ("row", "num_residues")


class NoiserGame:
    """Corrupt batches, run the encoder on them, and update the noiser.

    Methods that draw noise take the keys of its rows, and methods that depend on a schedule take the encoder's step.
    So a checkpoint only needs the two networks and the reward.

    Args:
        encoder (`PreTrainedModel`): Any `...ForMaskedLM`.
        noiser ([`NoiserModel`], *optional*): Moved to the device of the run. Without one, all masks are random.
        collator ([`DataCollatorForRandomMLM`]): Masks batches.
        args ([`AdversarialMLMTrainingArguments`]): Arguments.
        accelerator (`Accelerator`): The accelerator of the run.
        packs (`bool`, *optional*, defaults to `False`): Whether the encoder reads packed rows in training. It must be
            prepared for that.

    Attributes:
        reward ([`NoiserReward`]): What the noiser maximises. It exists after [`prepare`], if there is a noiser.
        alternation ([`Alternation`]): Which updates of the noiser come before which step of the encoder.
        max_steps (`int`): Steps of the run, to which the points of `mask_rate` may refer.
        teacher ([`Teacher`], *optional*): Weights residues and gives soft targets.
        micro_batches ([`MicroBatches`]): Cuts the rows of an update into what is read at once.
        figures ([`Means`]): `noiser_reward`, `noiser_grad_norm`, `noiser_cosine` and `choice_lift` since they were
            last read.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        noiser: NoiserModel | None,
        collator: DataCollatorForRandomMLM,
        args: AdversarialMLMTrainingArguments,
        accelerator: Accelerator,
        packs: bool = False,
    ):
        self.encoder, self.collator = encoder, collator
        self.noiser = None if noiser is None else on_device(noiser, args.device)
        self.args, self.accelerator = args, accelerator
        self.alternation = Alternation(args.noiser_steps, args.encoder_steps, args.shared_phase_counter)
        self.max_steps = args.max_steps
        has_teacher = args.teaches_encoder if noiser is None else args.has_teacher
        self.teacher = Teacher(args, collator, accelerator) if has_teacher else None
        self._reward: NoiserReward | None = None
        self._choice_learner: ChoiceLearner | None = None
        self.figures = Means("noiser_reward", "noiser_grad_norm", "noiser_cosine", "choice_lift", device=args.device)
        # as the noiser's updates call them: wrapped for distributed training, compiled with `torch_compile`
        self.micro_batches = MicroBatches(args, lambda: self.collator, encoder, packs)
        self._wrapped: nn.Module | None = noiser
        self._frozen_encoder: nn.Module = encoder
        self._compiled_masks: Callable[..., tuple[torch.Tensor, ...]] | None = None
        self._adversarial_share = Ramp(args.adversarial_share, "adversarial_share")
        self._reversal_strength = Ramp(args.reversal_strength, "reversal_strength")

    def prepare(
        self,
        log_shares: Callable[[], torch.Tensor | None],
        checkpoint: str | None = None,
        max_steps: int | None = None,
    ) -> None:
        """Wrap the noiser for training and build its reward. Prepare the encoder first.

        Args:
            log_shares (`Callable`): See [`NoiserReward.build`].
            checkpoint (`str`, *optional*): The checkpoint from which the run resumes.
            max_steps (`int`, *optional*): Steps of the run; by default the option `max_steps`.

        Raises:
            CheckpointError: If the checkpoint has no state of the reward that fits.
        """
        self.max_steps = self.args.max_steps if max_steps is None else max_steps
        self._compiled_masks = compiled_random_masks(self.accelerator, self.collator.rules)
        if self.teacher is not None:
            self.teacher.prepare(self.encoder, self.max_steps, checkpoint)
        if self.noiser is None:
            return
        self._wrapped = not_compiled(self.accelerator.prepare_model(self.noiser))
        self._frozen_encoder = compiled_as(self.accelerator, self.encoder)
        # `reversal` always trains it; otherwise its own phase sets the training mode
        self.noiser.train(self.args.noiser_update == "reversal")
        reward = REWARDS[self.args.noiser_reward].build(self.encoder, log_shares, self.args.slow_encoder_decay)
        if checkpoint is not None:
            reward.load(checkpoint)
        self._reward = reward
        if isinstance(self.collator, DataCollatorForChosenProteinsMLM) and self.teacher is not None:
            self._choice_learner = ChoiceLearner(self.collator, self.teacher, self.accelerator)

    @property
    def reward(self) -> NoiserReward:
        """What the noiser maximises.

        Raises:
            RuntimeError: If there is no noiser, or if the game is not prepared.
        """
        if self._reward is None:
            raise RuntimeError("there is no reward: the game has no noiser, or prepare was not called")
        return self._reward

    def save_state(self, folder: str) -> None:
        """Write what reward and teacher need to resume into a checkpoint."""
        for part in (self._reward, self.teacher):
            if part is not None:
                part.save(folder)

    @property
    def _learner(self) -> NoiserModel:
        """The noiser, in methods that need one."""
        if self.noiser is None:
            raise RuntimeError("there is no noiser to train")
        return self.noiser

    # ---- What is masked, and what the encoder reads ----

    def is_trained(self, step: int) -> bool:
        """Whether the noiser masks at this step of the encoder, and learns from it."""
        if self.noiser is None or self.args.noiser_update == "none":
            return False
        return self._adversarial_share(step) > 0

    def shares_backward(self, step: int) -> bool:
        """Whether the noiser learns from the encoder's own backward pass at this step (`noiser_update: reversal`)."""
        return self.collator.chooses_positions and self._learns_at(step)

    def _learns_at(self, step: int) -> bool:
        args = self.args
        return args.noiser_update == "reversal" and step % args.noiser_every == 0 and self.is_trained(step)

    def reversal_strength(self, step: int) -> float:
        """Factor of the noiser's gradient at this step, with `noiser_update: reversal`."""
        return self._reversal_strength(step)

    @property
    def packs(self) -> bool:
        """Whether the encoder reads packed rows in training."""
        return self.micro_batches.packs

    def chunks(self, batch: dict, packed: bool = False) -> list[dict]:
        """The parts of a batch that are read at once, see [`MicroBatches`]."""
        return self.micro_batches.of_batch(batch, packed)

    def to_device(self, batch: dict) -> dict:
        """A batch on the device, without waiting for it. Numbers of rows stay on the host, where budgets are made."""
        numbers = {name: batch[name] for name in _ON_HOST if name in batch}
        others = {name: value for name, value in batch.items() if name not in numbers}
        return {**recursively_apply(sent, others, self.args.device), **numbers}

    def rules_at(self, step: int) -> MaskingRules:
        """The masking rules of a step of the encoder (`mask_rate`)."""
        return self.collator.rules.at(step, self.max_steps)

    def figures_of_options(self, step: int, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Figures for the log that only some options have: `mask_rate`, and those of a teacher.

        Args:
            step (`int`): The encoder's latest step.
            reduce (`Callable`): Sums a tensor over all processes.
        """
        figures: dict[str, float] = {}
        if self.collator.rules.schedule is not None:
            rules = self.rules_at(max(step, 0))
            lowest = rules.mask_rate if rules.lowest_rate is None else rules.lowest_rate
            figures["scheduled_mask_rate"] = (lowest + rules.mask_rate) / 2  # mean over proteins
        if self.teacher is not None:
            figures |= self.teacher.figures.read(reduce)
            figures["soft_target_share"] = self.teacher.soft_share(step)
        return figures

    def count_items(
        self, batches: list[dict], step: int = 0, phase: int = ENCODER_PHASE, update: int | None = None
    ) -> torch.Tensor | None:
        """What all residues of an update count in the loss: all micro-batches, all processes; `None` without batches.

        Known before any mask is drawn: the budgets (`selection: threshold` may use fewer), and the residues that are
        not masked times their weight.

        Args:
            batches (`list[dict]`): Micro-batches of this process, with `row` if the rates of rows are drawn.
            step (`int`, *optional*, defaults to 0): Of the encoder.
            phase (`int`, *optional*): `ENCODER_PHASE` or `NOISER_PHASE`, a key of the noise.
            update (`int`, *optional*): Number of the update in this phase; by default `step`.
        """
        if not batches:
            return None
        items, of_unmasked = torch.zeros((), dtype=torch.float64), self.args.weight_of_unmasked
        rules = self.rules_at(step)
        for batch in batches:
            keys = None
            if rules.lowest_rate is not None:
                keys = row_keys(self.args.seed, phase, step if update is None else update, batch["row"])
            budget = self.collator.mask_budget(batch["num_residues"], keys, rules)
            items = items + (budget + of_unmasked * (batch["num_residues"] - budget).double()).sum()
        if self.accelerator.num_processes == 1:
            return sent(items.clamp_min(1), self.args.device)
        items = sent(items, self.args.device)
        return self.accelerator.reduce(items, reduction="sum").clamp_min(1)

    def chosen_proteins(self, batches: list[dict], step: int) -> list[dict]:
        """What an encoder update trains on: with `masking: chosen_proteins`, the noiser's choice, else all.

        Args:
            batches (`list[dict]`): Micro-batches of this process, on the host, with `row` `(batch,)`.
            step (`int`): Of the encoder.
        """
        choice = self._protein_choice()
        if choice is None or not batches:
            return batches
        chosen, lift = choice.of_update(batches, step, self.rules_at(step))
        self.figures.add(choice_lift=torch.tensor(lift, device=self.args.device))
        return chosen

    def measure(self, inputs: dict, corrupted: CorruptedBatch, outputs: MaskedLMOutput, step: int) -> None:
        """With `masking: chosen_proteins`, measure what the noiser learns from, see [`ChoiceLearner`]."""
        if self._choice_learner is not None and self._learns_at(step):
            self._choice_learner.measure(inputs, corrupted, cast(torch.Tensor, outputs.logits))

    def learn_choice(self) -> None:
        """Train the noiser on what was measured in an update of the encoder, before the optimizer's step."""
        if self._choice_learner is None or self._wrapped is None:
            return
        reward = self._choice_learner.backward(self._wrapped)
        if reward is not None:
            self.figures.add(noiser_reward=reward)

    def _protein_choice(self) -> ProteinChoice | None:
        if not isinstance(self.collator, DataCollatorForChosenProteinsMLM):
            return None
        return ProteinChoice(self.collator, self.args.seed, self.accelerator, self.to_device)

    def corrupt(self, inputs: dict, keys: torch.Tensor, step: int, differentiable: bool = False) -> CorruptedBatch:
        """Mask a batch (Algorithms 2 and 3).

        Args:
            inputs (`dict[str, torch.Tensor]`): What the collator's CPU stage returned, on the device.
            keys (`torch.Tensor` of shape `(batch,)`, int64): Keys of the rows' noise.
            step (`int`): Of the encoder.
            differentiable (`bool`, *optional*, defaults to `False`): Whether a gradient is to reach the noiser.
        """
        options: dict[str, Any] = {} if self.collator.rules.schedule is None else {"rules": self.rules_at(step)}
        if self._compiled_masks is not None:
            options["mask_at_random"] = self._compiled_masks
        if not isinstance(self.collator, DataCollatorForAdversarialMLM):
            return self.collator.corrupt(inputs, keys, **options)
        return self.collator.corrupt(
            inputs,
            keys,
            differentiable=differentiable,
            one_hot=differentiable and self.reward.through_encoder,
            noiser=self._wrapped if differentiable else None,
            adversarial_share=self._adversarial_share(step),
            **options,
        )

    def read(
        self, model: nn.Module, corrupted: CorruptedBatch, inputs: dict, reversal: float | None = None
    ) -> tuple[MaskedLMOutput, torch.Tensor, torch.Tensor]:
        """Have an encoder read a corrupted batch.

        Args:
            model (`nn.Module`): The encoder, wrapped or not.
            corrupted ([`CorruptedBatch`]): What it reads.
            inputs (`dict[str, torch.Tensor]`): The batch before corruption.
            reversal (`float`, *optional*): Multiplies the gradient that reaches the noiser, with the opposite sign.

        Returns:
            `MaskedLMOutput`, the cross-entropies `(batch, length)`, and what each of them counts `(batch, length)`.
        """
        read = {"input_ids": corrupted.input_ids}
        if corrupted.one_hot is not None:
            table = cast(nn.Embedding, self.encoder.get_input_embeddings())  # declared as any module
            read = {"inputs_embeds": soft_embeddings(corrupted, table, reversal)}
        if "packed" in inputs:
            logits = read_packed(model, self.encoder, inputs["packed"], corrupted.attention_mask, **read)
            outputs = MaskedLMOutput(logits=logits)
        else:
            dtype = autocast_dtype(self.args) or self.encoder.dtype
            mask = encoder_mask(self.encoder, corrupted.attention_mask, inputs.get("padded", True), dtype)
            outputs = model(**read, attention_mask=mask)
            logits = outputs.logits
        labels, residues = corrupted.labels, inputs["residue_mask"]
        if self.args.weight_of_unmasked:
            labels = torch.where(residues, inputs["input_ids"], IGNORE_INDEX)
        weights = loss_weights(
            corrupted.masked,
            residues,
            corrupted.choice.importance if corrupted.choice is not None and self.args.importance_exponent else None,
            self.args.importance_exponent,
            self.args.weight_of_unmasked,
        )
        return outputs, token_losses(logits, labels), weights

    def normalised(self, total: torch.Tensor | float, items: torch.Tensor) -> torch.Tensor:
        """A sum over this process as its part of the mean over the update."""
        # times the processes, because DistributedDataParallel takes the mean of their gradients
        processes = self.accelerator.num_processes
        return total / items * processes if processes > 1 else total / items

    # ---- The noiser's updates ----

    @contextlib.contextmanager
    def noiser_phase(self, first_update: int) -> Iterator[None]:
        """The encoder is frozen and the noiser trained in here.

        Args:
            first_update (`int`): Number of the first update of the noiser in it, which keys its dropout.
        """
        with (
            frozen(self.encoder, training=self.args.encoder_dropout_in_noiser_phase),
            self._separate_dropout(first_update),
            self.quick_dropout(),
        ):
            self._learner.train()
            yield
            self._learner.eval()

    def update_noiser(
        self, update: int, batches: list[dict], step: int, optimizer: AcceleratedOptimizer, guard: UpdateGuard
    ) -> None:
        """Update the noiser along the gradient of its reward (`update_noiser` of Algorithm 4).

        Args:
            update (`int`): Number of the update, which is a key of its noise.
            batches (`list[dict]`): Micro-batches of this process, with `row` `(batch,)`.
            step (`int`): Step of the encoder.
            optimizer (`AcceleratedOptimizer`): Optimizer of both networks, prepared by accelerate.
            guard ([`UpdateGuard`]): Skips the update if its gradient is not finite.
        """
        items = self.count_items(batches, step, NOISER_PHASE, update)
        if items is None:
            raise ValueError("an update of the noiser needs a micro-batch at least, got none")
        total = torch.zeros((), device=self.args.device)
        chunks = self.micro_batches.parts(batches)
        for index, chunk in enumerate(chunks):
            last = index == len(chunks) - 1
            # accelerate's optimizer steps only if this is set, which is otherwise left to its `accumulate`
            self.accelerator.gradient_state._set_sync_gradients(last)
            inputs = self.to_device(chunk)
            keys = row_keys(self.args.seed, NOISER_PHASE, update, inputs["row"])
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self._wrapped):
                reward = self.noiser_reward(inputs, keys, items, step)
                self.accelerator.backward(-spoil_gradient(reward))
            total += reward.detach()
        grad_norm = self.clip_noiser(self.accelerator.clip_grad_norm_)
        skipped = guard.check({NOISER: grad_norm}, optimizer.optimizer)
        optimizer.step()
        self._learner.zero_grad(set_to_none=True)
        self.figures.add(noiser_reward=torch.where(skipped, math.nan, total), noiser_grad_norm=grad_norm)

    def noiser_reward(
        self, inputs: dict[str, torch.Tensor], keys: torch.Tensor, items: torch.Tensor, step: int
    ) -> torch.Tensor:
        """What the noiser maximises on a micro-batch; a scalar with a graph to the noiser.

        Args:
            inputs (`dict[str, torch.Tensor]`): What the collator's CPU stage returned, on the device.
            keys (`torch.Tensor` of shape `(batch,)`, int64): Keys of the rows' noise.
            items (`torch.Tensor`): See [`count_items`].
            step (`int`): Of the encoder.
        """
        corrupted = self.corrupt(inputs, keys, step, differentiable=True)
        through = self.reward.through_encoder
        with contextlib.nullcontext() if through else torch.no_grad():
            _, losses, weights = self.read(self._frozen_encoder, corrupted, inputs)
        reward = self.reward.direct(corrupted, losses.detach())
        if through:
            reward = reward + (losses * weights).sum()
        return self.normalised(reward, items)

    def clip_noiser(self, clip: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Clip the noiser's gradient (`noiser_max_grad_norm`); returns its norm before.

        Args:
            clip (`Callable`): `clip_grad_norm_` of accelerate, or of PyTorch where no scale has to be taken out.
        """
        return clip(self._learner.parameters(), self.args.noiser_max_grad_norm or math.inf)

    def clip_shared_gradient(self) -> torch.Tensor | None:
        """Clip the noiser's gradient from the encoder's backward pass; returns its norm, or `None` without one."""
        if self.noiser is None or all(p.grad is None for p in self.noiser.parameters()):
            return None
        norm = self.clip_noiser(nn.utils.clip_grad_norm_)
        self.figures.add(noiser_grad_norm=norm)
        return norm

    def compare_half_batches(self, batch: dict, step: int) -> None:
        """Every `noiser_cosine_steps`, log the cosine between the noiser's gradients on two halves of a micro-batch.

        The run itself is not changed. A noiser that chooses proteins is not trained on parts of a batch.
        """
        every = self.args.noiser_cosine_steps
        if not every or step % every or len(batch["row"]) < 2 or not self.collator.chooses_positions:
            return
        noiser, inputs, wrapped, encoder = self._learner, self.to_device(batch), self._wrapped, self._frozen_encoder
        keys = row_keys(self.args.seed, NOISER_PHASE, step, inputs["row"])
        items = torch.ones((), device=self.args.device)
        gradients = []
        self._wrapped = noiser  # without the wrapper, so that no process waits for another
        self._frozen_encoder = self.encoder  # half a batch is not worth compiling for
        was_training = noiser.training
        noiser.train()  # a GRU on a GPU gives gradients in training mode only
        with frozen(self.encoder), self._separate_dropout(step):
            for rows in (slice(0, len(keys) // 2), slice(len(keys) // 2, None)):
                half = {name: tensor[rows] for name, tensor in inputs.items()}
                reward = self.noiser_reward(half, keys[rows], items, step)
                gradients.append(torch.autograd.grad(reward, list(noiser.parameters())))
        self._wrapped, self._frozen_encoder = wrapped, encoder
        noiser.train(was_training)
        self.figures.add(noiser_cosine=cosine(*gradients))

    # ---- Contexts ----

    @contextlib.contextmanager
    def no_sync(self, *networks: nn.Module) -> Iterator[None]:
        """The gradients of these networks and of the noiser stay with this process in here."""
        with contextlib.ExitStack() as stack:
            for network in (*networks, self._wrapped):
                if network is not None:
                    stack.enter_context(self.accelerator.no_sync(network))
            yield

    def quick_dropout(self) -> contextlib.AbstractContextManager:
        """Faster dropout in here, on a CPU (`quick_cpu_dropout`)."""
        args = self.args
        # not for compiled networks, which have other kernels, nor for checkpointed layers, which need the same numbers
        # twice (also if checkpointing was switched on before the trainer was made)
        twice = any(getattr(module, "gradient_checkpointing", False) for module in self.encoder.modules())
        quick = args.quick_cpu_dropout and args.device.type == "cpu" and not args.torch_compile and not twice
        return QuickDropout() if quick else contextlib.nullcontext()

    @contextlib.contextmanager
    def _separate_dropout(self, update: int) -> Iterator[None]:
        # the noiser's phase must not change the random numbers of the encoder's dropout
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.args.seed + update)
            yield
