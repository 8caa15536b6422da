"""Whether the Hub can be found is known without waiting for its client."""

import socket

import pytest

from adversarial_mlm.utils import hub_address


@pytest.mark.parametrize(
    ("offline", "proxies", "host"),
    [
        (False, {}, "huggingface.co"),
        (False, {"https": "http://proxy"}, None),  # the proxy looks addresses up
        (False, {"all": "http://proxy"}, None),
        (True, {}, None),
    ],
)
def test_the_host_is_named_if_nobody_else_looks_it_up(offline, proxies, host, monkeypatch):
    def no_address(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(hub_address, "is_offline_mode", lambda: offline)
    monkeypatch.setattr(hub_address, "getproxies", lambda: proxies)
    monkeypatch.setattr(hub_address.constants, "ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    assert hub_address.host_without_address() == host
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    assert hub_address.host_without_address() is None
