"""Addresses are read in one way, and what is none is refused with what would be right."""

from __future__ import annotations

import re

import pytest

from tq_common.addresses import canonical, listed, split


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:7001", ("127.0.0.1", 7001)),
        ("localhost:1", ("localhost", 1)),
        ("tq_1.internal.:65535", ("tq_1.internal.", 65535)),
        ("[::1]:7001", ("::1", 7001)),
        ("[fe80::1%eth0]:7001", ("fe80::1%eth0", 7001)),
    ],
)
def test_an_address_is_split(address: str, parts: tuple[str, int]) -> None:
    assert split(address) == parts


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "must be host:port"),
        (":7001", "must be host:port"),
        ("host:", "must be host:port"),
        ("host:abc", "must be host:port"),
        ("host:+1", "must be host:port"),
        ("host:٣", "must be host:port"),
        ("host:0", "port 0 is out of range"),
        ("host:99999", "port 99999 is out of range; right is 1 to 65535"),
        ("host:700000", "must be host:port"),
        ("http://host:7001", "with nothing before it"),
        ("host:7001/", "with nothing before it or after it"),
        ("host:7001 host:7002", "separated by commas"),
        ("::1:7001", "stands in brackets"),
        ("::1", "stands in brackets"),
        ("[::1]", "stands in brackets"),
        ("[zzz::1]:1", "'zzz::1' is not an IPv6 address"),
        ("[]:9", "'' is not an IPv6 address"),
        ("[1.2.3.4]:9", "'1.2.3.4' is not an IPv6 address"),
        ("256.1.1.1:9", "'256.1.1.1' is not an IPv4 address"),
        ("1.2.3:9", "'1.2.3' is not an IPv4 address"),
        ("-host:9", "no name of a host"),
        ("ho!st:9", "no name of a host"),
        ("a..b:9", "no name of a host"),
        (f"{'a' * 64}:9", "no name of a host"),
    ],
)
def test_what_is_no_address_is_refused_with_what_would_be_right(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        split(address)


def test_every_spelling_of_an_address_is_the_same_one() -> None:
    assert canonical("LOCALHOST.:7001") == canonical("localhost:7001")
    assert canonical("[0:0::1]:07001") == canonical("[::1]:7001") == "[::1]:7001"


def test_a_list_names_the_address_at_fault_and_takes_each_once() -> None:
    assert listed(" a:1, b:2,,A:1 ") == ["a:1", "b:2"]
    assert listed(["a:1", "b:2"]) == ["a:1", "b:2"]
    with pytest.raises(ValueError, match="address 'b': must be host:port"):
        listed("a:1,b")
    with pytest.raises(ValueError, match=r"address 'b': .*; address 'c:0': port 0 is out of range"):
        listed("b,a:1,c:0")
    with pytest.raises(ValueError, match="no address given"):
        listed(" , ")
