"""Clients that a program never closes end by themselves, say so, and hold up no exit."""

from __future__ import annotations

import time

import pytest

from tests.client.fake_broker import FakeBroker, answer, hang
from tests.client.programs import run
from tq_client import Client, engine
from tq_client.errors import UnavailableError

PREAMBLE = """
import gc, os, sys, threading, time, warnings
from contextlib import suppress
from tq_client import Client, TqError
from tq_client.shared import shared
"""


@pytest.mark.slow
async def test_dropped_clients_leave_no_thread_and_no_descriptor_and_say_so() -> None:
    ended = await run(
        """
        warnings.simplefilter("always")
        with Client() as client:
            client.submit("mail", "send")  # what gRPC keeps for itself is there from here on
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(30):
            Client().submit("mail", "send")
        gc.collect()
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if threading.active_count() == 1 and len(os.listdir("/proc/self/fd")) <= descriptors:
                sys.exit(0)
            time.sleep(0.02)
        sys.exit(f"{threading.enumerate()}, {os.listdir('/proc/self/fd')}")
        """,
        FakeBroker(),
        preamble=PREAMBLE,
    )

    assert ended.code == 0, ended.said
    assert ended.said.count("ResourceWarning: unclosed <tq_client.client.Client") == 30


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("client = Client(); client.submit('mail', 'send')", id="not closed"),
        pytest.param("shared().submit('mail', 'send')", id="the shared one"),
        pytest.param("client = Client()", id="not used"),
        pytest.param(
            """
            class Holder:
                def __init__(self):
                    self.client = Client()

                def __del__(self):
                    self.client.close()
                    try:
                        self.client.submit("mail", "send")
                    except Exception as error:
                        print("refused", file=sys.stderr)

            holder = Holder()
            holder.client.submit("mail", "send")
            sys.modules["keeps it to the very end"] = holder
            """,
            id="closed and called as the interpreter ends",
        ),
        pytest.param(
            """
            client = Client()


            def wait():
                with suppress(TqError):
                    client.wait("t1", timeout_s=60)

            threading.Thread(target=wait, daemon=True).start()
            while not client._engine._running.client._caller._flights:
                time.sleep(0.01)
            """,
            id="with a call in flight",
        ),
    ],
)
async def test_a_client_that_was_not_closed_holds_up_no_exit(program: str) -> None:
    ended = await run(program, FakeBroker(steps=[answer, hang]), preamble=PREAMBLE)

    assert ended.code == 0, ended.said
    assert "Traceback" not in ended.said


async def test_a_call_on_the_clients_own_loop_is_refused_and_does_not_hang() -> None:
    ended = await run(
        """
        client = Client()
        refused = []

        async def nested(inner):
            try:
                client.submit("mail", "send")
            except RuntimeError as error:
                refused.append(error)

        client._engine.run(nested, 5)
        client.close()
        sys.exit(len(refused) - 1)
        """,
        FakeBroker(),
        preamble=PREAMBLE,
    )

    assert (ended.code, ended.said) == (0, "")


@pytest.mark.slow
def test_a_call_is_waited_for_little_longer_than_its_time_limit(
    dead_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SLACK_S", 0.2)
    with Client(dead_address) as client:
        running = client._engine._running
        assert running is not None
        running.loop.call_soon_threadsafe(time.sleep, 2.0)

        with pytest.raises(UnavailableError, match="own thread has not answered"):
            client.get("t1", timeout_s=0.1)
