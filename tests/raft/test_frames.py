"""Messages as bytes: whole, in pieces, interleaved, damaged."""

from __future__ import annotations

import random

import pytest

from tq.internal.v1 import peer_pb2
from tq_cluster.raft import frames

SMALL = peer_pb2.PeerMessage(probe=peer_pb2.Probe(term=3, round=4))


def decoder_of_a_friend() -> frames.Decoder:
    decoder = frames.Decoder()
    decoder.takes_pieces = True
    return decoder


def large(size: int) -> peer_pb2.PeerMessage:
    command = random.Random(size).randbytes(size)
    entry = peer_pb2.LogEntry(term=1, command=command)
    return peer_pb2.PeerMessage(append=peer_pb2.Append(term=1, entries=[entry]))


@pytest.mark.parametrize(
    "size", [0, 1, frames.PIECE_BYTES - 50, frames.PIECE_BYTES, 3 * frames.PIECE_BYTES, 1_000_003]
)
def test_a_message_of_any_size_comes_back(size: int) -> None:
    message = large(size)

    decoded = list(decoder_of_a_friend().feed(b"".join(frames.encode(message))))

    assert decoded == [message]


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [10, 0, 20],
        [frames.PIECE_BYTES],
        [frames.PIECE_BYTES + 1],
        [5, 3 * frames.PIECE_BYTES, 0, 1_000_003, 130],
        [2 * frames.PIECE_BYTES - 20 + n for n in range(3)],
    ],
    ids=str,
)
def test_an_append_of_any_size_is_what_protobuf_would_have_made_of_it(sizes: list[int]) -> None:
    commands = [(random.Random(size).randbytes(size), 7 + size) for size in sizes]
    append = peer_pb2.Append(term=300, round=1 << 40, prev_index=5, echo_now=True)
    expected = peer_pb2.PeerMessage(append=append)
    for command, term in commands:
        expected.append.entries.add(term=term, command=command)

    cut = frames.encode_append(append, commands)

    assert list(decoder_of_a_friend().feed(b"".join(cut))) == [expected]
    assert all(len(frame) <= frames.PIECE_BYTES + 9 for frame in cut)
    assert len(cut) == len(frames.encode(expected))


def test_it_does_not_matter_where_the_stream_is_cut() -> None:
    stream = b"".join(b"".join(frames.encode(message)) for message in (SMALL, large(500), SMALL))
    for step in (1, 7, 64):
        decoder = frames.Decoder()

        decoded = [
            message
            for start in range(0, len(stream), step)
            for message in decoder.feed(stream[start : start + step])
        ]

        assert decoded == [SMALL, large(500), SMALL]


def test_a_small_message_overtakes_a_large_one() -> None:
    pieces = frames.encode(large(5 * frames.PIECE_BYTES))
    heartbeat = frames.encode(SMALL)
    decoder = decoder_of_a_friend()

    decoded = list(decoder.feed(b"".join([*pieces[:2], *heartbeat, *pieces[2:]])))

    assert decoded == [SMALL, large(5 * frames.PIECE_BYTES)]


def test_a_part_of_a_large_message_is_noticed() -> None:
    pieces = frames.encode(large(3 * frames.PIECE_BYTES))
    decoder = decoder_of_a_friend()

    seen = [decoder.inside_large_message]
    for piece in pieces:
        list(decoder.feed(piece))
        seen.append(decoder.inside_large_message)

    assert seen == [False] + [True] * (len(pieces) - 1) + [False]


def test_any_flipped_bit_is_noticed() -> None:
    stream = b"".join(frames.encode(SMALL))
    for position in range(len(stream)):
        for bit in range(8):
            damaged = bytearray(stream)
            damaged[position] ^= 1 << bit
            decoder = frames.Decoder()
            try:
                decoded = list(decoder.feed(bytes(damaged)))
            except frames.DamagedFrameError:
                continue
            # A longer length is only noticed when more comes, or never: then nothing is believed.
            assert decoded == []


def test_a_large_message_is_taken_only_from_whom_the_node_knows() -> None:
    pieces = frames.encode(large(3 * frames.PIECE_BYTES))
    with pytest.raises(frames.DamagedFrameError, match="has not said who it is"):
        list(frames.Decoder().feed(pieces[0]))


def test_another_format_is_named() -> None:
    newer = bytearray(b"".join(frames.encode(SMALL)))
    newer[0] = 0x20
    with pytest.raises(frames.DamagedFrameError, match="format 2, this node speaks 1"):
        list(frames.Decoder().feed(bytes(newer)))


def test_a_length_that_nobody_sends_is_damage() -> None:
    with pytest.raises(frames.DamagedFrameError):
        list(frames.Decoder().feed(b"\x10\xff\xff\xff\xff\0\0\0\0"))
