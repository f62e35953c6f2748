"""A process whose standard streams are closed keeps its files out of their places."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from chaos.cluster.broker import NodeSetup
from chaos.cluster.processes import ProcessCluster
from tests.patience import PATIENCE_S
from tests.service.fakes import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CLOSED = "exec <&- >&- 2>&-; "


def standard(pid: int) -> set[str]:
    return {str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (0, 1, 2)}


@pytest.mark.cluster
async def test_a_broker_without_standard_streams_works_and_opens_none_of_its_files_there(
    tmp_path: Path,
) -> None:
    closed = NodeSetup(wrapper=("bash", "-c", CLOSED + 'exec "$@"', "bash"))
    cluster = ProcessCluster(tmp_path, nodes=1, setup=lambda _: closed)
    try:
        await cluster.start()
        broker = cluster.brokers["n1"]
        assert broker.pid is not None
        assert standard(broker.pid) == {"/dev/null"}
        assert await broker.stop() == 0
    finally:
        await cluster.close()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("module", ["tq_cluster", "tq_worker", "tq_admin"])
def test_a_command_says_nothing_and_ends_well_without_standard_streams(
    module: str, closed: str
) -> None:
    arguments = {"tq_cluster": "version", "tq_worker": "run --help", "tq_admin": "--help"}
    command = f"exec {closed}; exec {sys.executable} -m {module} {arguments[module]}"

    ended = subprocess.run(["/bin/bash", "-c", command], cwd=ROOT, check=False, timeout=PATIENCE_S)

    assert ended.returncode == 0


async def test_a_worker_without_standard_streams_gives_none_of_its_files_their_places(
    tmp_path: Path,
) -> None:
    run = "-m tq_worker run --handlers tq_worker.handlers --queues q --address 127.0.0.1:1"
    command = f"{CLOSED} exec {sys.executable} {run}"
    worker = await asyncio.create_subprocess_exec(
        *("/bin/bash", "-c", command),
        cwd=ROOT,
        # Not as nohup starts a process: with that the tests may have been started.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )

    def children() -> list[int]:
        listed = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    try:
        await until(
            lambda: len(children()) > 0, "it has a process for its handlers", within_s=PATIENCE_S
        )
        assert standard(worker.pid) == {"/dev/null"}
        assert standard(children()[0]) == {"/dev/null"}
        worker.send_signal(signal.SIGHUP)
        assert await worker.wait() == 0, "a terminal that is closed has it leave in order"
    finally:
        with suppress(ProcessLookupError):
            worker.kill()
        await worker.wait()
