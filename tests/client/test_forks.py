"""A process with a client forks: parent and child go on, or are told at once why they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client.fake_broker import FakeBroker, answer, hang
from tests.client.programs import Ended, run
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.slow

CALL_S = PATIENCE_S / 2
CHILD_S = PATIENCE_S * 3 / 4
"""Longer than any call in a child may take, and shorter than the program may."""
PREAMBLE = (
    f"""
CALL_S, CHILD_S = {CALL_S}, {CHILD_S}
"""
    """
import asyncio, faulthandler, multiprocessing, os, signal, sys, threading, time, traceback
from tq_client import AsyncClient, Client
from tq_client.errors import ForkedError
from tq_client.shared import shared


def submit(client):
    return client.submit("mail", "send", b"", timeout_s=CALL_S)


def submit_by_a_new_one():
    with Client() as client:
        return submit(client)


def forked(call):
    pid = os.fork()
    if pid == 0:
        # A child that hangs prints the stack of each of its threads and is ended.
        faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
        signal.setitimer(signal.ITIMER_REAL, CHILD_S)
        try:
            call()
            code = 0
        except ForkedError as error:
            print(error, file=sys.stderr)
            code = 3
        except BaseException:
            traceback.print_exc()
            code = 4
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        by = signal.Signals(-code).name if code < 0 else f"code {code}"
        print(f"child {pid} of {os.getpid()} ended with {by}", file=sys.stderr)
    return code


def thread(call):
    results = []
    running = threading.Thread(target=lambda: results.append(call()))
    running.start()
    running.join()
    return results[0]
"""
)


async def outcome(program: str, broker: FakeBroker, before: str = "") -> Ended:
    """Run a program in which a client that is not closed is an error."""
    return await run(program, broker, "-W", "error::ResourceWarning", preamble=before + PREAMBLE)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            """
            submit(shared())
            assert [forked(lambda: submit(shared())) for _ in range(3)] == [0, 0, 0]
            submit(shared())
            """,
            id="the shared client",
        ),
        pytest.param(
            """
            assert forked(lambda: submit(shared())) == 0
            submit(shared())
            """,
            id="the shared client, unused in the parent",
        ),
        pytest.param(
            """
            with Client() as client:
                submit(client)
                assert forked(lambda: submit(client)) == 0
                assert forked(client.close) == 0
                submit(client)
            """,
            id="a client",
        ),
        pytest.param(
            """
            with Client() as client:
                submit(client)
                assert forked(submit_by_a_new_one) == 0
            """,
            id="a new client in the child",
        ),
        pytest.param(
            """
            with Client() as client:
                submit(client)
                assert forked(lambda: forked(lambda: submit(client)) and sys.exit(1)) == 0
            """,
            id="a child of a child",
        ),
        pytest.param(
            """
            with Client() as client:
                submit(client)
                assert thread(lambda: forked(lambda: submit(client))) == 0
                assert forked(lambda: thread(lambda: submit(client))) == 0
            """,
            id="from a thread",
        ),
        pytest.param(
            """
            async def used():
                async with AsyncClient() as client:
                    await client.submit("mail", "send")

            asyncio.run(used())
            assert forked(lambda: submit(shared())) == 0
            assert forked(lambda: asyncio.run(used())) == 0
            """,
            id="an AsyncClient that was closed",
        ),
        pytest.param(
            """
            async def main():
                client = AsyncClient()
                assert forked(lambda: submit(shared())) == 0
                await client.close()

            asyncio.run(main())
            """,
            id="an AsyncClient without a connection yet",
        ),
        pytest.param(
            """
            def work(number):
                return submit(shared())

            submit(shared())
            with multiprocessing.get_context("fork").Pool(3) as pool:
                assert len(pool.map(work, range(12))) == 12
            submit(shared())
            """,
            id="multiprocessing",
        ),
    ],
)
async def test_parent_and_child_go_on(program: str) -> None:
    ended = await outcome(program, FakeBroker())

    assert (ended.code, ended.said) == (0, ""), str(ended)


COUNTED = """
import os, threading

# Registered before the client's own hook, so that it is called after it.
threads = []
os.register_at_fork(
    before=lambda: threads.append((len(os.listdir("/proc/self/task")), threading.active_count()))
)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system shows no threads")
async def test_no_thread_of_grpc_runs_while_the_process_forks() -> None:
    ended = await outcome(
        """
        import subprocess

        async def used():
            async with AsyncClient() as client:
                await client.submit("mail", "send")

        # On a busy machine gRPC's threads take longer to end.
        spin = "import time; end = time.time() + 60; any(iter(lambda: time.time() > end, True))"
        busy = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2 * os.cpu_count())]
        try:
            with Client() as client:
                for _ in range(15):
                    submit(client)
                    assert forked(lambda: None) == 0
                for _ in range(5):
                    asyncio.run(used())
                    assert forked(lambda: None) == 0
        finally:
            for each in busy:
                each.kill()
                each.wait()
        natives = [native - python for native, python in threads]
        assert natives == [0] * 20, natives
        """,
        FakeBroker(),
        before=COUNTED,
    )

    assert (ended.code, ended.said) == (0, ""), str(ended)


async def test_after_a_failure_to_close_the_channels_the_child_is_told_so() -> None:
    ended = await outcome(
        """
        async def fails():
            raise OSError("not closed")

        with Client() as client:
            submit(client)
            client._engine._running.client._caller._connections.close = fails
            assert forked(lambda: submit(client)) == 3
            del client._engine._running.client._caller._connections.close
        """,
        FakeBroker(),
    )

    assert ended.code == 0, str(ended)
    assert "was forked from one that had" in ended.said, str(ended)


async def test_a_channel_of_the_programs_own_delays_only_the_first_fork() -> None:
    ended = await outcome(
        """
        import grpc
        from tq_client import grpc_threads

        grpc_threads.await_end.__defaults__ = (0.2,)
        with grpc.insecure_channel(os.environ["TQ_ADDRESS"]) as channel, Client() as client:
            grpc.channel_ready_future(channel).result(CALL_S)
            assert grpc_threads._running()
            submit(client)
            looks = []
            sleep, time.sleep = time.sleep, lambda seconds: (looks.append(seconds), sleep(seconds))
            client._engine.before_fork()
            grpc_threads.await_end()
            assert looks
            looks.clear()
            grpc_threads.await_end()
            assert not looks
        """,
        FakeBroker(),
    )

    assert (ended.code, ended.said) == (0, ""), str(ended)


async def test_a_child_of_a_process_with_an_open_async_client_is_told_so_at_once() -> None:
    ended = await outcome(
        """
        async def main():
            async with AsyncClient() as client:
                await client.submit("mail", "send")
                for call in (
                    lambda: submit(shared()),
                    lambda: submit(Client()),
                    lambda: asyncio.new_event_loop().run_until_complete(client.get("t1")),
                ):
                    assert forked(call) == 3
                await client.submit("mail", "send")

        asyncio.run(main())
        """,
        FakeBroker(),
    )

    assert ended.code == 0, str(ended)
    assert ended.said.count("Close the AsyncClient before the fork") == 3, str(ended)


async def test_a_call_in_flight_as_the_process_forks_is_answered() -> None:
    ended = await outcome(
        """
        import time

        with Client() as client:
            submit(client)
            answers = []
            get = lambda: answers.append(client.get("t1", timeout_s=CALL_S))
            waiting = threading.Thread(target=get)
            waiting.start()
            flights = client._engine._running.client._caller._flights
            while not flights:
                time.sleep(0.01)
            assert forked(lambda: submit(client)) == 0
            waiting.join()
            assert len(answers) == 1
        """,
        FakeBroker(steps=[answer, hang]),
    )

    assert (ended.code, ended.said) == (0, ""), str(ended)
