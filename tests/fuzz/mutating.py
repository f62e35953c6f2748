"""Inputs mutated from other inputs: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus.txt"
INPUT_BYTES_MAX = 4096
_INTERESTING = (0, 1, 0x0A, 0x10, 0x12, 0x13, 0x7F, 0x80, 0xFF)


def corpus() -> list[bytes]:
    """The kept inputs; each takes a path through the code that no other takes."""
    return [bytes.fromhex(line) for line in CORPUS.read_text().split()]


def inputs(seeds: Sequence[bytes], count: int, draw: random.Random) -> Iterator[bytes]:
    """Yield so many inputs, each a seed with a few changes."""
    for _ in range(count):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 6)):
            _change(data, seeds, draw)
        yield bytes(data[:INPUT_BYTES_MAX])


def _change(data: bytearray, seeds: Sequence[bytes], draw: random.Random) -> None:
    at = draw.randrange(len(data) + 1)
    match draw.randrange(6):
        case 0 if at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        case 1 if at < len(data):
            data[at] = draw.choice(_INTERESTING)
        case 2:
            data[at:at] = draw.randbytes(draw.randint(1, 8))
        case 3:
            del data[at : at + draw.randint(1, 8)]
        case 4:
            other = draw.choice(seeds)
            begin = draw.randrange(len(other) + 1)
            data[at:at] = other[begin : begin + draw.randint(1, 64)]
        case _:
            data[at:] = draw.choice(seeds)[at:]
