"""Tell at once that the Hub has no address here; the client of the Hub would try for a minute first."""

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, is_offline_mode, try_to_load_from_cache
from transformers.utils import CONFIG_NAME
from transformers.utils import logging as transformers_logging

from adversarial_mlm.utils.errors import CheckpointError

logger = transformers_logging.get_logger(__name__)


def check_hub_address(subject: str, name: str, revision: str) -> None:
    """Refuse a name on the Hub if the Hub's host has no address, and the model is not in the cache.

    Nothing is checked if the client is set to offline, or if a proxy looks up addresses.

    Args:
        subject (`str`): The beginning of the message, such as `model_name_or_path is a/b`.
        name (`str`): Name of a model on the Hub.
        revision (`str`): Branch, tag or commit.

    Raises:
        CheckpointError: If the host has no address.
    """
    address = urlsplit(constants.ENDPOINT)
    if is_offline_mode() or address.hostname is None or address.scheme in getproxies() or "all" in getproxies():
        return
    try:
        socket.getaddrinfo(address.hostname, None)
        return
    except OSError as error:
        reason = error
    if isinstance(try_to_load_from_cache(name, CONFIG_NAME, revision=revision), str):
        logger.warning(
            f"{address.hostname} cannot be found, so {name} comes from the cache: HF_HUB_OFFLINE=1 is faster"
        )
        return
    raise CheckpointError(
        f"{subject}, which is not a folder on this machine, and {address.hostname} cannot be found to look for it on "
        "the Hub: check the name of the folder, or the network"
    ) from reason
