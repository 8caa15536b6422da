"""The models of the page: an encoder, its noiser, and the rules of their training."""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.inference.protein_embeddings import default_device
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.loading import load_encoder, load_noiser
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.recipes.saved_rules import saved_rules
from adversarial_mlm.utils.errors import CheckpointError, RecipeError, one_line
from adversarial_mlm.utils.hardware import on_device

_KEPT = 2  # models in memory
_SMALL = 5_000_000  # parameters


@dataclass(frozen=True)
class Networks:
    """A model of the page.

    Attributes:
        name (`str`): Folder or Hub name.
        model (`PreTrainedModel`): The encoder, in evaluation mode.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        noiser ([`NoiserModel`], *optional*): The noiser, in evaluation mode; `None` if the model has none.
        rules ([`MaskingRules`], *optional*): The rules of the noiser's training.
        why_no_noiser (`str`): Why there is no noiser; empty if there is one.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    noiser: NoiserModel | None
    rules: MaskingRules | None
    why_no_noiser: str = ""

    def noiser_and_rules(self) -> tuple[NoiserModel, MaskingRules]:
        """Return the noiser and its rules.

        Raises:
            CheckpointError: If the model has no noiser.
        """
        if self.noiser is None or self.rules is None:
            raise CheckpointError(
                f"{self.name} has no noiser, so only the tab Substitutions can use it: choose a model that was "
                f"trained by adv-mlm train. ({self.why_no_noiser})"
            )
        return self.noiser, self.rules

    def description(self) -> str:
        """Describe the model in one or two sentences; they say so if it is small."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        size = f"{parameters / 1e6:.1f} million" if parameters >= 50_000 else f"{parameters:,}"
        facts = f"{self.name}: an encoder with {size} parameters, {'with' if self.noiser else 'without'} a noiser."
        if parameters >= _SMALL:
            return f"{facts} Its answers are predictions, not measurements."
        return (
            f"{facts} So small a model knows little about proteins: its answers show how the method works, and are "
            "no facts about biology."
        )


class NetworkStore:
    """Loads models by name, and keeps the two that were used last.

    Args:
        default (`str`): Folder or Hub name of the model that the page starts with.
        revision (`str`, *optional*): Branch, tag or commit of that model on the Hub.
        device (`str`, *optional*): By default a GPU if there is one.
        only_default (`bool`, defaults to `False`): Whether to refuse all other models, as a public page should.
    """

    def __init__(
        self, default: str, *, revision: str | None = None, device: str | None = None, only_default: bool = False
    ):
        self.default, self.revision, self.only_default = default, revision, only_default
        self.device = device or default_device()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Networks] = OrderedDict()

    def load(self, name: str = "") -> Networks:
        """Return a model in evaluation mode.

        Args:
            name (`str`): Folder or Hub name; the default one if it is empty.

        Raises:
            CheckpointError: If it cannot be loaded, or if this page has one model only.
            RecipeError: If the device cannot be used, or if the recipe of its run cannot be read.
        """
        name = os.path.expanduser(name.strip()) or self.default
        if self.only_default and name != self.default:
            raise CheckpointError(f"This page only shows {self.default}: start your own with adv-mlm demo --model.")
        with self._lock:
            if name not in self._kept:
                self._kept[name] = self._read(name)
            self._kept.move_to_end(name)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[name]

    def _read(self, name: str) -> Networks:
        revision = self.revision if name == self.default else None
        try:
            model, tokenizer = load_encoder(name, revision, needs_head=True)
        except CheckpointError as error:
            raise _of_page(error) from error
        try:
            model = on_device(model, self.device).eval()
        except (RuntimeError, AssertionError) as error:  # PyTorch lacks this kind of device, or the machine does
            raise RecipeError(f"--device is {self.device}, which cannot be used: {one_line(error)}") from error
        try:
            noiser = load_noiser(name, revision)
        except CheckpointError as error:
            return Networks(name, model, tokenizer, None, None, str(_of_page(error)))
        rules, _ = saved_rules(name, noiser.config, revision)
        return Networks(name, model, tokenizer, on_device(noiser, self.device).eval(), rules)


def _of_page(error: CheckpointError) -> CheckpointError:
    """Name the field of the page, and not the option of training, in a message."""
    message = str(error)
    for option in ("model_name_or_path is ", "noiser_name_or_path is "):
        message = message.removeprefix(option)
    return CheckpointError(message if message.endswith((".", "?")) else f"{message}.")
