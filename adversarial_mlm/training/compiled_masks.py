"""With `torch_compile`: random masks in one compiled graph, which a GPU launches as a few kernels."""

import logging
from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend

from adversarial_mlm.masking.random_masks import random_masks
from adversarial_mlm.masking.rules import MaskingRules

logger = logging.getLogger(__name__)


def compiled_random_masks(
    accelerator: Accelerator, rules: MaskingRules
) -> Callable[..., tuple[torch.Tensor, ...]] | None:
    """Compile [`random_masks`] as `accelerator` compiles networks, for batches of any size.

    The log says what is compiled. The masks of a noiser and other choices of positions are not.

    Args:
        accelerator (`Accelerator`): Of the run, with its options of `torch_compile`.
        rules ([`MaskingRules`]): Of the run.

    Returns:
        `Callable`: The compiled function; `None` if the run does not compile, or has no such masks.
    """
    plugin = accelerator.state.dynamo_plugin
    if plugin.backend == DynamoBackend.NO:
        return None
    if rules.adversarial_rate or rules.positions != "random":
        which = "the noiser's masks" if rules.adversarial_rate else f"masks of masking: {rules.positions}"
        logger.info(f"torch_compile compiles the encoder, but not {which}")
        return None
    logger.info("torch_compile compiles the encoder, and the random masks")
    # one graph for all sizes, whatever the plugin says about networks
    return torch.compile(random_masks, **{**plugin.to_kwargs(), "dynamic": True, "fullgraph": True})
