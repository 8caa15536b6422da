"""The trainer against loops of plain PyTorch in float64, which know nothing of its parts but where masks are drawn."""

import copy

import pytest
import torch
from torch.nn import functional as F

from adversarial_mlm.masking.keyed_random import ANY_MASK, ENCODER_PHASE, MASK_OPTION, NOISER_PHASE, gumbel, row_keys
from tests.helpers.hooked_trainer import HookedTrainer
from tests.helpers.plain_algorithms import plain_rss, printed_straight_through
from tests.helpers.trainer_helpers import largest_difference, parameters_of

STEPS, RATE, NOISER_RATE, DECAY, NOISER_DECAY, CLIP = 4, 2e-3, 5e-3, 0.05, 0.02, 0.5


class Recorder(HookedTrainer):
    """Notes which batches each network reads, in their order."""

    def __init__(self, *args, **kwargs):
        self.read_by: list[tuple[str, int, dict]] = []
        super().__init__(*args, **kwargs)

    def _note(self, network: str, number: int, batches: list[dict]) -> None:
        (batch,) = batches
        self.read_by.append((network, number, {name: copy.deepcopy(value) for name, value in batch.items()}))

    def get_batch_samples(self, *args):
        batches, items = super().get_batch_samples(*args)
        self._note("encoder", self.state.global_step, batches)
        return batches, items

    def update_noiser(self, update, batches, *others):
        self._note("noiser", update, batches)
        super().update_noiser(update, batches, *others)


def optimizer_of(network, rate: float, decay: float) -> torch.optim.Optimizer:
    """AdamW that decays neither biases nor layer norms."""
    groups = {True: [], False: []}
    for name, parameter in network.named_parameters():
        groups["bias" not in name and "LayerNorm" not in name].append(parameter)
    return torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": decay}, {"params": groups[False], "weight_decay": 0.0}], lr=rate
    )


class PlainLoop:
    """Algorithms 2 to 4 by autograd through every softmax of Algorithm 1."""

    def __init__(self, trainer):
        self.encoder, self.noiser = copy.deepcopy(trainer.model), copy.deepcopy(trainer.noiser)
        self.seed = trainer.args.seed
        self.collator = copy.copy(trainer.data_collator)
        self.collator.noiser = self.noiser
        self.optimizers = {"encoder": optimizer_of(self.encoder, RATE, DECAY)}
        if self.noiser is not None:
            self.optimizers["noiser"] = optimizer_of(self.noiser, NOISER_RATE, NOISER_DECAY)

    def masks(self, batch, phase: int, number: int):
        keys = row_keys(self.seed, phase, number, batch["row"])
        return keys, self.collator.corrupt(batch, keys)

    def soft_input(self, batch, keys, masks) -> torch.Tensor:
        """One-hot input with the straight-through gradient of the noiser's scores, `(batch, length, vocab)`."""
        vocabulary, length = self.collator.vocabulary, batch["input_ids"].shape[1]
        scores = self.noiser(batch["input_ids"], batch["attention_mask"])
        noise = gumbel(keys, ANY_MASK, length).double()
        budget = masks.adversarial.sum(dim=1)
        overall = plain_rss(scores.any_mask_scores, batch["residue_mask"], budget, noise)
        options = torch.softmax(scores.option_scores + gumbel(keys, MASK_OPTION, length, 22), dim=-1)
        hard = masks.adversarial + overall - overall.detach()
        x = F.one_hot(batch["input_ids"], vocabulary.vocab_size).double()
        with_random = F.one_hot(
            torch.where(masks.random, masks.input_ids, batch["input_ids"]), vocabulary.vocab_size
        ).double()
        masked = printed_straight_through(
            x, overall, options, vocabulary.mask_token_id, vocabulary.replacement_ids, torch.ones_like(overall)
        )
        soft = (1 - hard)[..., None] * with_random + hard[..., None] * masked
        assert torch.equal(soft.argmax(dim=-1), masks.input_ids)
        return soft

    def mean_loss(self, batch, masks, soft=None) -> torch.Tensor:
        table = self.encoder.get_input_embeddings().weight
        read = {"input_ids": masks.input_ids} if soft is None else {"inputs_embeds": soft @ table}
        logits = self.encoder(**read, attention_mask=batch["attention_mask"]).logits
        return F.cross_entropy(logits[masks.masked], batch["input_ids"][masks.masked])

    def gradients(self, network, loss) -> None:
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)

    def step(self, network: str, encoder_step: int) -> None:
        optimizer = self.optimizers[network]
        rate = {"encoder": RATE, "noiser": NOISER_RATE}[network]
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - encoder_step / STEPS)  # linear, without warm-up
        optimizer.step()

    def update_noiser(self, number: int, batch, encoder_step: int) -> None:
        keys, masks = self.masks(batch, NOISER_PHASE, number)
        self.gradients(self.noiser, -self.mean_loss(batch, masks, self.soft_input(batch, keys, masks)))
        self.step("noiser", encoder_step)

    def update_encoder(self, number: int, batch) -> None:
        _, masks = self.masks(batch, ENCODER_PHASE, number)
        self.gradients(self.encoder, self.mean_loss(batch, masks))
        self.step("encoder", number)

    def update_both(self, number: int, batch) -> None:
        keys, masks = self.masks(batch, ENCODER_PHASE, number)
        self.gradients(self.noiser, -self.mean_loss(batch, masks, self.soft_input(batch, keys, masks)))
        self.gradients(self.encoder, self.mean_loss(batch, masks))
        self.step("noiser", number)
        self.step("encoder", number)

    def run(self, read_by, reversal: bool) -> dict[str, torch.Tensor]:
        encoder_step = 0
        for network, number, batch in read_by:
            if network == "noiser":
                self.update_noiser(number, batch, encoder_step)
            elif reversal:
                self.update_both(number, batch)
            else:
                self.update_encoder(number, batch)
            encoder_step += network == "encoder"
        networks = {"encoder": self.encoder, "noiser": self.noiser}
        return {
            f"{network}.{name}": value.detach()
            for network, module in networks.items()
            if module is not None
            for name, value in module.named_parameters()
        }


@pytest.mark.parametrize(
    ("masking", "settings", "updates"),
    [
        pytest.param("random", {"noiser_update": "none"}, (0, STEPS), id="random"),
        pytest.param("adversarial", {"noiser_steps": 3, "encoder_steps": 2}, (6, STEPS), id="alternate"),
        pytest.param("adversarial", {"noiser_update": "reversal"}, (0, STEPS), id="reversal"),
    ],
)
def test_the_trainer_ends_with_the_weights_of_a_plain_loop(make_trainer, masking, settings, updates):
    trainer = make_trainer(
        masking,
        cls=Recorder,
        double=True,
        max_steps=STEPS,
        learning_rate=RATE,
        noiser_learning_rate=NOISER_RATE,
        weight_decay=DECAY,
        noiser_weight_decay=NOISER_DECAY,
        max_grad_norm=CLIP,
        noiser_max_grad_norm=CLIP,
        noiser_cosine_steps=0,
        lr_scheduler_type="linear",
        optim="adamw_torch",
        **settings,
    )
    loop, start = PlainLoop(trainer), parameters_of(trainer)
    trainer.train()
    trained = parameters_of(trainer)
    assert tuple(sum(who == network for who, *_ in trainer.read_by) for network in ("noiser", "encoder")) == updates
    expected = loop.run(trainer.read_by, reversal=settings.get("noiser_update") == "reversal")
    assert largest_difference(trained, expected) < 1e-9
    assert largest_difference(trained, start) > 1e-3
