"""A meter: how much an update by a way of masking helps, measured by gradients at one checkpoint, without training.

Let g be the gradient of one batch, G that of the held-out loss, and P the optimizer's metric. An update along P g
lowers the held-out loss by ⟨g, P G⟩ at first order. Its noise costs ⟨g, P g⟩. At the best learning rate, the gain is
proportional to the *efficiency*

    e = ⟨E g, P G⟩² / E⟨g, P g⟩.

It is myopic: it knows nothing of later updates. Compare ways at the same checkpoint only.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.comparison.held_out import ComparisonData
from adversarial_mlm.data.order import ENCODER_STREAM, KeyedRecords, RecordOrder
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, EVALUATION, row_keys
from adversarial_mlm.masking.losses import token_losses
from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.recipes.run import build_collator
from adversarial_mlm.training.noiser_game import NoiserGame
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.hardware import on_device
from adversarial_mlm.utils.tables import text_table

logger = logging.getLogger(__name__)

BATCHES = 12
_METRIC_BATCHES = 4
_HELD_OUT = 512  # proteins
_UNCERTAIN = 0.5  # error of the first way's efficiency, relative to it
_FLOOR = 0.01  # of the metric's mean standard deviation, where a parameter has hardly any gradient


@dataclass(frozen=True)
class Efficiency:
    """Efficiency of a way of masking, with jackknife errors over batches.

    Attributes:
        value: e, in arbitrary units that all ways at one checkpoint share.
        error: Its standard error.
        relative: e divided by that of the first way.
        relative_error: Standard error of the ratio, whose batches are paired. 0 for the first way.
    """

    value: float
    error: float
    relative: float
    relative_error: float


def measure_masking(
    games: Mapping[str, NoiserGame],
    train: Any,
    held_out: Sequence[Any],
    *,
    batch_sizes: Mapping[str, int],
    batches: int = BATCHES,
    step: int = 0,
    seed: int = 0,
) -> dict[str, Efficiency]:
    """Measure ways of masking at the present weights of an encoder.

    The metric P is Adam's: one over the root of the mean squared gradient, estimated from batches of the first way
    that are not used otherwise. The encoder has no dropout. Ways with equal batch sizes read the same proteins.

    Args:
        games (`Mapping[str, NoiserGame]`): By name, a game without a noiser. All have the same encoder. It corrupts,
            reads and weights as in training.
        train: The training proteins, a dataset with `sequence`.
        held_out (`Sequence`): Datasets whose loss is to fall; at most 512 proteins of each are read.
        batch_sizes (`Mapping[str, int]`): Proteins in an update of each way.
        batches (`int`, *optional*, defaults to 12): Batches that count.
        step (`int`, *optional*, defaults to 0): Step of the encoder, for `mask_rate` and `soft_targets`.
        seed (`int`, *optional*, defaults to 0): Seed of batches and masks.

    Returns:
        `dict[str, Efficiency]` by name.

    Raises:
        ValueError: If there are fewer than two batches, or no residue to mask.
    """
    if batches < 2:
        raise ValueError(f"the meter needs at least 2 batches for its error, got {batches}")
    first, game = next(iter(games.items()))
    encoder = game.encoder
    was_training = encoder.training
    encoder.eval()
    target = _target_gradient(game, held_out)
    squares = torch.zeros_like(target)
    for number in range(batches, batches + _METRIC_BATCHES):
        squares += _update_gradient(game, train, batch_sizes[first], number, step, seed) ** 2 / _METRIC_BATCHES
    deviation = squares.sqrt()
    metric = 1 / (deviation + _FLOOR * deviation.mean())
    found = {}
    for name, game in games.items():
        if game.teacher is not None:
            _settle(game, train, batch_sizes[name], batches, step, seed)
        gradients = (_update_gradient(game, train, batch_sizes[name], b, step, seed) for b in range(batches))
        found[name] = torch.tensor([_products(gradient, metric, target) for gradient in gradients])
        logger.info(f"{name}: measured on {batches} batches of {batch_sizes[name]} proteins")
    encoder.train(was_training)
    return {name: compared(products, found[first], name == first) for name, products in found.items()}


def compared(products: torch.Tensor, of_first: torch.Tensor, is_first: bool = False) -> Efficiency:
    """Return the efficiency from the products of each batch.

    Args:
        products (`torch.Tensor` of shape `(batches, 2)`): ⟨g, P G⟩ and ⟨g, P g⟩ of each batch.
        of_first (`torch.Tensor` of shape `(batches, 2)`): The same of the first way.
        is_first (`bool`, *optional*, defaults to `False`): Whether these are of the first way.
    """
    value, error = jackknife(lambda kept: efficiency(products[kept]), len(products))
    if is_first:
        return Efficiency(value, error, 1.0, 0.0)
    ratio = jackknife(lambda kept: efficiency(products[kept]) / efficiency(of_first[kept]), len(products))
    return Efficiency(value, error, *ratio)


def efficiency(products: torch.Tensor) -> float:
    """Return (mean ⟨g, P G⟩)² / mean ⟨g, P g⟩ of batches, from a tensor of shape `(batches, 2)`."""
    along, squared = products.mean(dim=0).tolist()
    return along**2 / squared if squared else 0.0


def jackknife(statistic: Callable[[torch.Tensor], float], number: int) -> tuple[float, float]:
    """Return a statistic of all items, and its standard error from leaving out one at a time.

    Args:
        statistic (`Callable`): Takes the indices of the items that are kept.
        number (`int`): Number of items.
    """
    everything = torch.arange(number)
    without = [statistic(everything[everything != index]) for index in range(number)]
    mean = math.fsum(without) / number
    error = math.sqrt((number - 1) / number * math.fsum((value - mean) ** 2 for value in without))
    return statistic(everything), error


def _products(gradient: torch.Tensor, metric: torch.Tensor, target: torch.Tensor) -> list[float]:
    scaled = metric * gradient
    return [float((scaled * target).sum()), float((scaled * gradient).sum())]


def _parameters(encoder: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in encoder.parameters() if parameter.requires_grad]


def _gradient(loss: torch.Tensor, encoder: nn.Module) -> torch.Tensor:
    """Return the gradient of a loss as one vector, float64; 0 where it does not reach."""
    parameters = _parameters(encoder)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten().double() for g, p in pairs])


def _update_gradient(game: NoiserGame, train: Any, size: int, number: int, step: int, seed: int) -> torch.Tensor:
    """The gradient of an update's loss, as the trainer computes it."""
    order = RecordOrder(len(train), seed, ENCODER_STREAM)
    examples = KeyedRecords(train).__getitems__(order.keys(number * size, (number + 1) * size))
    batch = {**game.collator(examples), "row": torch.arange(size)}
    items = game.count_items([batch], step, update=number)
    assert items is not None  # there is a batch
    total: torch.Tensor | float = 0.0
    for chunk in game.chunks(batch):
        inputs = game.to_device(chunk)
        corrupted = game.corrupt(inputs, row_keys(game.args.seed, ENCODER_PHASE, number, inputs["row"]), step)
        outputs, losses, weights = game.read(game.encoder, corrupted, inputs)
        if game.teacher is not None:
            losses, weights = game.teacher.applied(outputs, losses, weights, corrupted, step)
        total = total + _gradient((losses * weights).sum() / items, game.encoder)
    assert isinstance(total, torch.Tensor)
    return total


def _settle(game: NoiserGame, train: Any, size: int, number: int, step: int, seed: int) -> None:
    """Let a teacher find its mean of learnability on a batch that does not count."""
    assert game.teacher is not None  # asked by the caller
    _update_gradient(game, train, size, number, step, seed)
    game.teacher.after_encoder_update(game.encoder, torch.zeros((), dtype=torch.bool, device=game.args.device))


def _target_gradient(game: NoiserGame, held_out: Sequence[Any]) -> torch.Tensor:
    """The gradient of the mean held-out loss, with the masks of evaluation."""
    total, masked = torch.zeros(()), 0
    for batch in _held_out_batches(game, held_out):
        for chunk in game.chunks(batch):
            inputs = game.to_device(chunk)
            keys = row_keys(game.args.eval_mask_seed, EVALUATION, 0, inputs["row"])
            corrupted = game.collator.hide_at_random(inputs, keys, game.args.eval_mask_rate)
            logits = game.encoder(input_ids=corrupted.input_ids, attention_mask=corrupted.attention_mask).logits
            total = total + _gradient(token_losses(logits, corrupted.labels).sum(), game.encoder)
            masked += int(corrupted.masked.sum())
    if not masked:
        raise ValueError("the held-out proteins have no residue to mask")
    return total / masked


def _held_out_batches(game: NoiserGame, held_out: Sequence[Any]) -> Iterator[dict]:
    encode = game.collator.sequence_encoder.for_evaluation(game.args.eval_mask_seed)
    size = game.args.per_device_eval_batch_size
    for dataset in held_out:
        records, number = KeyedRecords(dataset), min(len(dataset), _HELD_OUT)
        for start in range(0, number, size):
            keys = list(range(start, min(start + size, number)))
            yield {**encode(records.__getitems__(keys)), "row": torch.tensor(keys)}


def meter_table(
    recipes: Mapping[str, Recipe],
    data: ComparisonData,
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    step: int = 0,
    max_steps: int = 1,
) -> str:
    """Measure the arms of a comparison at an encoder, and return a table.

    Args:
        recipes (`Mapping[str, Recipe]`): Pre-training recipe of each arm. Arms with a noiser are left out and named.
        data ([`ComparisonData`]): The proteins; the selection part of the held-out ones is used.
        encoder (`PreTrainedModel`): The encoder with the weights to measure at.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        step (`int`, *optional*, defaults to 0), max_steps (`int`, *optional*, defaults to 1): The place in the run.

    Raises:
        RecipeError: If all arms have a noiser.
    """
    games, sizes = {}, {}
    for name, recipe in recipes.items():
        if recipe.masking.has_noiser:
            continue
        collator: DataCollatorForRandomMLM = build_collator(recipe, tokenizer)
        args = recipe.training
        game = NoiserGame(on_device(encoder, args.device), None, collator, args, Accelerator(cpu=args.use_cpu))
        game.prepare(lambda: None, max_steps=max_steps)
        games[name], sizes[name] = game, args.per_device_train_batch_size * args.gradient_accumulation_steps
    left_out = [name for name in recipes if name not in games]
    if not games:
        raise RecipeError(
            "--meter measures ways of masking without a noiser, but all arms have one: add an arm with masking: random"
        )
    sets = list(data.selection.values())
    found = measure_masking(games, data.proteins.train, sets, batch_sizes=sizes, step=step)
    lines = _lines(found, sizes)
    if left_out:
        lines.append(f"Not measured, because a noiser's choices depend on its training: {', '.join(left_out)}")
    return "\n".join(lines)


def _lines(found: Mapping[str, Efficiency], sizes: Mapping[str, int]) -> list[str]:
    rows = [
        (name, str(sizes[name]), f"{one.relative:.2f}", "–" if not one.relative_error else f"{one.relative_error:.2f}")
        for name, one in found.items()
    ]
    first, of_first = next(iter(found.items()))
    lines = [
        f"Efficiency of an update, relative to {first}; jackknife error over {BATCHES} batches:",
        text_table(("arm", "batch", "efficiency", "error"), rows),
    ]
    own = of_first.error / of_first.value if of_first.value else math.inf
    if own > _UNCERTAIN:
        lines.append(
            f"The efficiency of {first} itself has an error of {100 * own:.0f} %, so the ratios say little: its "
            "batches hardly lower the held-out loss. Use larger batches, a later checkpoint, or other held-out sets"
        )
    return lines
