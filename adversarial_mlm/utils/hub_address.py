"""Tell at once that the Hub's host has no address here; the client of the Hub would try for a minute first."""

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, is_offline_mode


def host_without_address() -> str | None:
    """Return the Hub's host if it has no address; `None` if it has one, or if this cannot be said.

    It cannot be said if the client is set to offline, or if a proxy looks up addresses.
    """
    address = urlsplit(constants.ENDPOINT)
    if is_offline_mode() or address.hostname is None or address.scheme in getproxies() or "all" in getproxies():
        return None
    try:
        socket.getaddrinfo(address.hostname, None)
    except OSError:
        return address.hostname
    return None
