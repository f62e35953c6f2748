"""Addresses as people write them, ``host:port``, parsed in the same way everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

DEFAULT_ADDRESSES: Final = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"
"""The brokers of `tq-cluster dev`."""
PORT_MAX: Final = 65_535
NAME_CHARS_MAX: Final = 253
"""RFC 1035, section 2.3.4."""

_NAME = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*"
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?"
)
_NUMBERS = re.compile(r"[0-9.]+")
_PORT = re.compile(r"[0-9]{1,5}")
_LIKE = "must be host:port, such as 127.0.0.1:7001"


def split(address: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[ipv6]:port``; raises ValueError, which says what is right."""
    if "://" in address or "/" in address:
        raise ValueError(f"{_LIKE}, with nothing before it or after it")
    if re.search(r"\s", address):
        raise ValueError(f"{_LIKE}; several are separated by commas")
    host, colon, port = address.rpartition(":")
    if address.count(":") > 1 and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address stands in brackets, such as [::1]:7001")
    if not colon or not host or not _PORT.fullmatch(port):
        raise ValueError(_LIKE)
    if not 0 < int(port) <= PORT_MAX:
        raise ValueError(f"port {port} is out of range; right is 1 to {PORT_MAX}")
    if host.startswith("["):
        host = host[1:-1]
        _check(host, IPv6Address, "an IPv6 address")
    elif _NUMBERS.fullmatch(host):
        _check(host, IPv4Address, "an IPv4 address")
    elif len(host) > NAME_CHARS_MAX or not _NAME.fullmatch(host):
        raise ValueError(f"{host[:NAME_CHARS_MAX]!r} is no name of a host")
    return host, int(port)


def canonical(address: str) -> str:
    """Return the one canonical spelling of an address that ``split`` takes."""
    host, port = split(address)
    if ":" in host:
        return f"[{IPv6Address(host)}]:{port}"
    return f"{host.lower().removesuffix('.')}:{port}"


def listed(text: str | Iterable[str]) -> list[str]:
    """Read addresses, separated by commas or as an iterable; ValueError names every fault.

    Duplicates are dropped.
    """
    parts = text.split(",") if isinstance(text, str) else list(text)
    found: dict[str, str] = {}
    faults: list[str] = []
    for part in parts:
        address = part.strip()
        if address:
            try:
                found.setdefault(canonical(address), address)
            except ValueError as error:
                faults.append(f"address {address!r}: {error}")
    if faults:
        raise ValueError("; ".join(faults))
    if not found:
        raise ValueError("no address given; right is host:port, or several separated by commas")
    return list(found.values())


def _check(host: str, kind: type[IPv4Address | IPv6Address], name: str) -> None:
    try:
        kind(host)
    except ValueError:
        raise ValueError(f"{host!r} is not {name}") from None
