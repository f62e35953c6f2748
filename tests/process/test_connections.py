"""A connection that its owner cannot close is shut down from outside."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from tq_process import connections


@pytest.mark.parametrize(
    ("family", "listen_at", "call_at"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
    ids=["IPv4", "IPv6", "IPv4 at a socket for both"],
)
def test_the_named_connection_is_shut_down_and_no_other(
    family: socket.AddressFamily, listen_at: str, call_at: str
) -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(
            socket.create_server((listen_at, 0), family=family, dualstack_ipv6=listen_at == "::")
        )
        address = call_at, listening.getsockname()[1]
        callers = [stack.enter_context(socket.create_connection(address)) for _ in range(2)]
        here = [stack.enter_context(listening.accept()[0]) for _ in callers]

        assert connections.shut_down(call_at, callers[0].getsockname()[1])

        assert callers[0].recv(1) == b""
        here[1].sendall(b"x")
        assert callers[1].recv(1) == b"x"
        assert here[0].fileno() > 0, "it is still its owner's to close"


def test_a_connection_that_is_not_there_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert not connections.shut_down("127.0.0.1", listening.getsockname()[1])
