"""Restricts the addresses that may connect to a listening port; the kernel enforces it.

It is for the port of a library that accepts every connection. The filter is a program of the
classic BPF, which any process may attach to its own sockets (socket(7), SO_ATTACH_FILTER); the
kernel drops the packets that it rejects.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import stat
import struct
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

ADDRESSES_MAX: Final = 32
"""The most addresses that a jump in the filter can skip."""

_SO_ATTACH_FILTER: Final = 26
_NETWORK_HEADER: Final = 0xFFF00000
"""SKF_NET_OFF: offsets from here count from the IP header."""
_LOAD_BYTE, _LOAD_WORD, _SHIFT_RIGHT = 0x30, 0x20, 0x74
_JUMP_IF_EQUAL, _RETURN = 0x15, 0x06
_V4, _V6 = 4, 6
_V4_SOURCE, _V6_SOURCE = 12, 8
_ALL, _NONE = 0xFFFFFFFF, 0
_Instruction = tuple[int, int, int, int]


def listening_at(port: int) -> list[socket.socket]:
    """Return copies of this process's sockets that listen at a TCP port; close each of them.

    A copy shares its options with the original, and the port listens until both are closed. Call
    it while no other thread opens files.
    """
    found: list[socket.socket] = []
    seen: set[int] = set()
    for name in os.listdir(Path("/proc/self/fd")):  # noqa: PTH208  # names alone
        with suppress(OSError):
            what = os.fstat(int(name))
            # Copy only sockets: closing a copy of a file releases its locks. A copy may have a
            # number that the list had for something else.
            if not stat.S_ISSOCK(what.st_mode) or what.st_ino in seen:
                continue
            seen.add(what.st_ino)
            copy = socket.socket(fileno=os.dup(int(name)))
            if _listens(copy, port):
                found.append(copy)
            else:
                copy.close()
    return found


def _listens(sock: socket.socket, port: int) -> bool:
    try:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(listens) and sock.getsockname()[1:2] == (port,)
    except OSError:  # no socket of TCP
        return False


def let_in_only(listening: socket.socket, addresses: Collection[str]) -> bool:
    """Let only these addresses reach a listening socket; False if that is not possible.

    Open connections keep the filter that they were made with.
    """
    if sys.platform != "linux" or len(addresses) > ADDRESSES_MAX:
        return False
    program = _program([ipaddress.ip_address(each.partition("%")[0]) for each in addresses])
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
    except OSError:
        return False
    return True


def _program(
    addresses: Collection[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> list[_Instruction]:
    v4, v6 = set(), []
    for each in addresses:
        if isinstance(each, ipaddress.IPv4Address):
            v4.add(int(each))
        elif each.ipv4_mapped is not None:  # as a socket for both kinds shows it
            v4.add(int(each.ipv4_mapped))
        else:
            v6.append(each.packed)
    first = _from_v4(v4)
    second = _from_v6(v6)
    return [
        (_LOAD_BYTE, 0, 0, _NETWORK_HEADER),
        (_SHIFT_RIGHT, 0, 0, 4),
        (_JUMP_IF_EQUAL, 0, len(first), _V4),
        *first,
        (_JUMP_IF_EQUAL, 0, len(second), _V6),
        *second,
        (_RETURN, 0, 0, _NONE),
    ]


def _from_v4(sources: Collection[int]) -> list[_Instruction]:
    compared = [(_JUMP_IF_EQUAL, len(sources) - at, 0, source) for at, source in enumerate(sources)]
    return [
        (_LOAD_WORD, 0, 0, _NETWORK_HEADER + _V4_SOURCE),
        *compared,
        (_RETURN, 0, 0, _NONE),
        (_RETURN, 0, 0, _ALL),
    ]


def _from_v6(sources: Collection[bytes]) -> list[_Instruction]:
    program: list[_Instruction] = []
    for source in sources:
        words = struct.unpack("!4I", source)
        for at, word in enumerate(words):
            program.append((_LOAD_WORD, 0, 0, _NETWORK_HEADER + _V6_SOURCE + 4 * at))
            # Skip the rest of this address: two for each further word, and the return.
            program.append((_JUMP_IF_EQUAL, 0, 2 * (len(words) - 1 - at) + 1, word))
        program.append((_RETURN, 0, 0, _ALL))
    return [*program, (_RETURN, 0, 0, _NONE)]
