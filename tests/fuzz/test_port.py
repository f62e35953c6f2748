"""The raft port takes any bytes: inputs by which a fuzzer reached new code, and many like them."""

from __future__ import annotations

import random

import pytest

from tests.fuzz import mutating
from tests.fuzz.port import FuzzError, Port, play, true_hello
from tq.internal.v1 import peer_pb2
from tq_cluster.raft import bounds, frames
from tq_cluster.raft.formation import Formation
from tq_cluster.raft.peers import Peers
from tq_common.limits import TERM_MAX

INPUTS = 5_000
"""The same ones each time. ``python -m tests.fuzz`` makes as many as one likes."""


@pytest.mark.slow
def test_no_input_of_the_corpus_or_near_it_gets_past_the_port() -> None:
    seeds = mutating.corpus()
    draw = random.Random("the raft port")

    for data in (*seeds, *mutating.inputs(seeds, INPUTS, draw)):
        play(data)


def test_the_corpus_gets_as_far_as_an_admitted_peers_messages() -> None:
    played = [play(data) for data in mutating.corpus()]

    kinds = {message.WhichOneof("body") for port in played for message in port.messages}
    assert len(kinds) >= 5, kinds
    assert any(port.proves and port.hellos for port in played), "behind a proof, too"
    assert any(port.dialled and port.hellos for port in played), "on connections that it dialled"


def test_a_true_peer_is_admitted_so_that_what_is_behind_is_fuzzed_too() -> None:
    port = Port(0)

    port.take(frames._frame(frames.MESSAGE, true_hello(port)))

    assert port.connection.peer_id == "n1"


@pytest.mark.parametrize("planted", ["a greeting for everyone", "no judge", "an unbounded term"])
def test_the_fuzzer_notices(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match planted:
        case "a greeting for everyone":
            made = Peers._made

            def greet(peers: Peers, connection: object) -> None:
                made(peers, connection)  # type: ignore[arg-type]  # as it is called
                peers._introduce(connection, to_member=True)  # type: ignore[arg-type]  # as above

            monkeypatch.setattr(Peers, "_made", greet)
        case "no judge":
            monkeypatch.setattr(Formation, "judge", lambda *_: None)
        case _:
            monkeypatch.setattr(bounds, "flaw_in_term", lambda *_: None)

    with pytest.raises((FuzzError, AssertionError)):
        _play_the_corpus()


def _play_the_corpus() -> None:
    for data in mutating.corpus():
        port = play(data)
        assert all(_term_of(message) < TERM_MAX for message in port.messages)


def _term_of(message: peer_pb2.PeerMessage) -> int:
    body = message.WhichOneof("body")
    return int(getattr(getattr(message, body or "ping"), "term", 0))
