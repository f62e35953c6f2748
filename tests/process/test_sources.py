"""The kernel lets only allowed hosts connect to a listening port, for any process that accepts."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.fakes import until
from tests.service.trio import trio
from tq_process import sources
from tq_process.descriptors import count_open

SYN_SENT = 2


def listening(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family)
    made.bind((host, 0))
    made.listen()
    return made


def allow(port: int, *addresses: str) -> None:
    for found in sources.listening_at(port):
        with closing(found):
            assert sources.let_in_only(found, addresses)


@contextmanager
def attempt(source: str, host: str, port: int) -> Iterator[socket.socket]:
    """Try to connect; nothing is waited for."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as calling:
        calling.bind((source, 0))
        calling.setblocking(False)
        calling.connect_ex((host, port))
        yield calling


def state(calling: socket.socket) -> int:
    """Of its connection, as TCP has it."""
    return calling.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


@pytest.mark.parametrize("where", ["127.0.0.1", "::"], ids=["IPv4", "both"])
def test_who_may_is_let_in_and_a_stranger_does_not_get_as_far_as_a_connection(where: str) -> None:
    with listening(where) as port, ExitStack() as stack:
        number = port.getsockname()[1]
        allow(number, "127.0.0.2", "::1", "2001:db8::1")

        stranger = stack.enter_context(attempt("127.0.0.3", "127.0.0.1", number))
        stack.enter_context(attempt("127.0.0.2", "127.0.0.1", number))
        # Loopback delivers in order: the stranger's packet was there first.
        assert port.accept()[1][0].endswith("127.0.0.2")
        assert state(stranger) == SYN_SENT

        if where == "::":
            stack.enter_context(attempt("::1", "::1", number))
            assert port.accept()[1][0] == "::1"


def test_who_may_can_change_and_nobody_may_at_first() -> None:
    with listening() as port, ExitStack() as stack:
        number = port.getsockname()[1]
        allow(number)
        early = stack.enter_context(attempt("127.0.0.2", "127.0.0.1", number))
        assert state(early) == SYN_SENT

        allow(number, "127.0.0.2")
        stack.enter_context(attempt("127.0.0.2", "127.0.0.1", number))
        assert port.accept()[1][0] == "127.0.0.2"


@given(st.lists(st.ip_addresses(), max_size=sources.ADDRESSES_MAX, unique=True))
def test_any_addresses_make_a_filter_that_the_kernel_takes(
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    with listening() as port:
        assert sources.let_in_only(port, [str(each) for each in addresses])


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """To close a copy of a file gives up the locks on it, LMDB's for one."""
    with (tmp_path / "lock").open("w") as file, listening() as port:
        fcntl.lockf(file, fcntl.LOCK_EX)
        before = count_open()

        [found] = sources.listening_at(port.getsockname()[1])
        found.close()

        assert count_open() == before
        take = f"from fcntl import *; lockf(open({file.name!r}, 'w'), LOCK_EX | LOCK_NB)"
        other = subprocess.run([sys.executable, "-c", take], capture_output=True, check=False)
        assert b"BlockingIOError" in other.stderr


def test_more_addresses_than_a_filter_can_hold_change_nothing() -> None:
    with listening() as port:
        many = [f"10.0.0.{number}" for number in range(sources.ADDRESSES_MAX + 1)]
        assert not sources.let_in_only(port, many)
        with attempt("127.0.0.1", "127.0.0.1", port.getsockname()[1]):
            assert port.accept()[1][0] == "127.0.0.1"


@pytest.mark.cluster
async def test_the_listener_for_nodes_is_open_to_the_hosts_of_admitted_peers_alone(
    tmp_path: Path,
) -> None:
    async with trio(tmp_path) as nodes:
        await nodes.await_leader()
        ways = nodes.nodes["n1"].service._ways
        await until(lambda: ways.to("n2", "") != "", "n1 is connected to n2's")

        [listens] = nodes.nodes["n2"].service._listening_for_nodes
        port = listens.getsockname()[1]
        with attempt("127.0.0.9", "127.0.0.1", port) as stranger:
            with attempt("127.0.0.1", "127.0.0.1", port) as peer:
                await until(lambda: state(peer) != SYN_SENT, "a peer's host gets in")
            assert state(stranger) == SYN_SENT
