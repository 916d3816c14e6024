"""What holds for every test: no network but loopback, no secrets, repeatable property tests."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any

import hypothesis
import pytest

# Before any test module imports them: those of other folders do, too.
pytest.register_assert_rewrite("tests.web.behaviour", "tests.web.reader", "tests.web.site")

# The same examples every time, so that a change is judged by what it changes. To look for new ones:
# pytest --hypothesis-profile=explore
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, print_blob=True, max_examples=1000)
hypothesis.settings.load_profile("steady")

_SECRETS = ("_KEY", "_KEY_ID", "_SECRET", "_TOKEN", "_PASSWORD", "_CREDENTIALS")
_OURS = ("AWS_", "EVERSTEP_")

_network = pytest.MonkeyPatch()
_real_connect = socket.socket.connect
_real_connect_ex = socket.socket.connect_ex
_real_sendto = socket.socket.sendto
_real_getaddrinfo = socket.getaddrinfo


class NetworkBlockedError(AssertionError):
    """A test tried to reach something that is not this machine."""


def pytest_configure(config: pytest.Config) -> None:
    """Before the first test module is imported: close the network, forget settings and secrets of this machine."""
    for name in list(os.environ):
        if name.startswith(_OURS) or name.endswith(_SECRETS):
            del os.environ[name]
    _network.setattr(socket.socket, "connect", _connect)
    _network.setattr(socket.socket, "connect_ex", _connect_ex)
    _network.setattr(socket.socket, "sendto", _sendto)
    _network.setattr(socket, "getaddrinfo", _getaddrinfo)


def pytest_unconfigure(config: pytest.Config) -> None:
    _network.undo()


def _connect(self: socket.socket, address: Any) -> None:
    _allow(self.family, address)
    _real_connect(self, address)


def _connect_ex(self: socket.socket, address: Any) -> int:
    _allow(self.family, address)
    return _real_connect_ex(self, address)


def _sendto(self: socket.socket, data: Any, *flags_and_address: Any) -> int:
    _allow(self.family, flags_and_address[-1])
    return _real_sendto(self, data, *flags_and_address)


def _getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    if host:  # none: an address to listen on
        _allow(socket.AF_INET, (host,))
    return _real_getaddrinfo(host, *args, **kwargs)


def _allow(family: int, address: Any) -> None:
    if family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
        raise NetworkBlockedError(
            f"a test tried to reach {address[0]!r}: tests use nothing but this machine's loopback"
        )


def _is_loopback(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
