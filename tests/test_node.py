"""The command tq-cluster: what it refuses and how it says so, how a node starts, stops and dies."""

from __future__ import annotations

import asyncio
import os
import pkgutil
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import grpc.aio
import pytest
import yaml

from chaos.cluster.ports import free_addresses
from tests.patience import PATIENCE_S
from tests.service.fakes import Stubs, until
from tq.v1 import cluster_service_pb2, task_pb2, task_service_pb2
from tq_cluster import config
from tq_cluster.core.reads import queries
from tq_cluster.errors import DiskError
from tq_cluster.node import node
from tq_cluster.storage.lock import is_locked
from tq_cluster.storage.store import FULL_BYTES, Store

COMMAND = [sys.executable, "-m", "tq_cluster"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("TQ_")}


def write_config(folder: Path, **overrides: object) -> Path:
    raft, api = free_addresses(2)
    values: dict[str, object] = {
        "node_id": "n1",
        "data_dir": str(folder / "n1"),
        "members": {"n1": {"raft": raft, "api": api}},
        **overrides,
    }
    if values["members"] and len(dict(values["members"])) == 1:  # type: ignore[call-overload]
        values.setdefault("single", True)
    path = folder / "node.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=ENVIRONMENT,
        check=False,
    )


def start(path: Path) -> subprocess.Popen[str]:
    """Start a node and wait until it says that it is ready."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--config", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready.startswith("tq-cluster: node n1 ready"), (ready, process.communicate())
    return process


@pytest.mark.slow
def test_mistakes_in_the_configuration_are_listed_without_a_traceback(tmp_path: Path) -> None:
    path = write_config(tmp_path, colour="red", log={"level": "loud"})

    for command in ("serve", "check-config"):
        result = run(command, "--config", str(path))

        assert result.returncode == 2
        assert "the configuration has 2 mistakes" in result.stderr
        assert f"colour ({path}): is not a field that is known here" in result.stderr
        assert "log.level" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_configuration_can_be_checked_without_starting_anything(tmp_path: Path) -> None:
    result = run("check-config", "--config", str(write_config(tmp_path)), "--log-format", "json")

    assert result.returncode == 0
    assert '"format": "json"' in result.stdout
    assert not (tmp_path / "n1").exists()


@pytest.mark.slow
def test_a_secret_is_drawn_by_a_command_that_leaves_one_that_is_there_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cluster-secret"

    first = run("draw-secret", str(path))
    drawn = path.read_text()
    again = run("draw-secret", str(path))

    assert (first.returncode, again.returncode) == (0, 0), (first.stderr, again.stderr)
    assert path.read_text() == drawn
    assert "was left as it is" in again.stdout
    assert drawn.strip() not in first.stdout + again.stdout


async def test_a_node_without_a_secret_says_so_once_at_start_and_in_its_status(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "cluster-secret"
    secret.write_text("x" * 40)
    secret.chmod(0o600)
    said = []
    for more in ({}, {"cluster_secret_file": str(secret)}):
        caplog.clear()
        running = node.Node(config.load(write_config(tmp_path, **more), {}, {}))
        await running.start()
        vitals = running._vitals(None)
        assert vitals.message == "", "nothing that passes"
        said.append((vitals.warnings, [each.getMessage() for each in caplog.records]))
        await running.stop()

    (open_warnings, open_lines), (closed_warnings, closed_lines) = said
    assert ["no cluster_secret_file" in each for each in open_warnings] == [True]
    assert open_lines.count("the raft port is open") == 1
    assert closed_warnings == ()
    assert "the raft port is open" not in closed_lines


@pytest.mark.slow
def test_a_secret_that_is_none_is_said_before_anything_is_started(tmp_path: Path) -> None:
    path = write_config(tmp_path, cluster_secret_file=str(tmp_path / "none"))

    for command in ("serve", "check-config"):
        result = run(command, "--config", str(path))

        assert result.returncode == 2, result.stdout
        assert "cluster_secret_file" in result.stderr
        assert "cannot be read" in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "n1").exists()


@pytest.mark.slow
def test_a_node_reads_a_new_secret_at_sighup_and_keeps_the_old_one_if_that_is_none(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "cluster-secret"
    secret.write_text("x" * 40)
    process = start(write_config(tmp_path, cluster_secret_file=str(secret)))
    assert process.stderr is not None
    secret.write_text("short")

    process.send_signal(signal.SIGHUP)
    lines = iter(process.stderr.readline, "")
    said = next(line for line in lines if "secret not reloaded" in line)
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=PATIENCE_S)

    assert "line 1 of" in said
    assert "short" not in said
    assert process.returncode == 0, rest


def test_the_version_is_said() -> None:
    assert re.fullmatch(r"tq-cluster \d+\.\d+\.\d+\n", run("version").stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raft", "api", "metrics"])
def test_a_port_in_use_is_said_without_a_traceback(tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        overrides = (
            {"metrics_listen": address} if kind == "metrics" else {"listen": {kind: address}}
        )
        result = run("serve", "--config", str(write_config(tmp_path, **overrides)))

    assert result.returncode == 2
    assert address in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.cluster
def test_a_data_directory_in_use_and_one_of_another_node_are_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    process = start(path)
    try:
        in_use = run("serve", "--config", str(write_config(tmp_path)))
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE_S)
    members = {"n2": dict(zip(("raft", "api"), free_addresses(2), strict=True))}
    strange = run("serve", "--config", str(write_config(tmp_path, node_id="n2", members=members)))

    assert process.returncode == 0, log
    assert in_use.returncode == strange.returncode == 2
    assert f"is in use by process {process.pid}" in in_use.stderr
    assert "belongs to node n1" in strange.stderr
    assert "Traceback" not in in_use.stderr + strange.stderr


@pytest.mark.slow
def test_a_file_that_names_its_node_alone_forms_no_cluster_unless_it_says_so(
    tmp_path: Path,
) -> None:
    result = run("serve", "--config", str(write_config(tmp_path, single=False)))

    checked = run("check-config", "--config", str(write_config(tmp_path, single=False)))

    assert result.returncode == checked.returncode == 2
    assert "members names n1 alone" in result.stderr
    assert "say single: true" in result.stderr
    assert "Traceback" not in result.stderr
    assert checked.stderr == result.stderr
    assert not (tmp_path / "n1" / "identity").exists()


@pytest.mark.cluster
def test_a_file_that_names_others_than_the_cluster_is_refused_with_both_lists(
    tmp_path: Path,
) -> None:
    process = start(write_config(tmp_path))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    members = {
        name: dict(zip(("raft", "api"), free_addresses(2), strict=True)) for name in ("n1", "n2")
    }
    more = run("serve", "--config", str(write_config(tmp_path, members=members)))
    checked = run("check-config", "--config", str(write_config(tmp_path, members=members)))

    # Once it is formed, neither the word nor the addresses have to be the same.
    again = start(write_config(tmp_path, single=False))
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=PATIENCE_S)

    assert more.returncode == checked.returncode == 2
    assert checked.stderr == more.stderr
    assert "the configuration names the members n1, n2, but" in more.stderr
    assert "is of n1: editing a file changes no members" in more.stderr
    assert "Traceback" not in more.stderr
    assert again.returncode == 0


@pytest.mark.cluster
def test_a_node_killed_in_earnest_starts_again_with_what_it_acknowledged(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    address = config.load(path, {}, {}).listen_api
    request = task_service_pb2.SubmitRequest(request_id="r1")
    request.tasks.add(task_id="t1", queue="q", type="x")

    process = start(path)
    asyncio.run(submit(address, request))
    process.kill()
    process.communicate()
    process = start(path)
    try:
        task = asyncio.run(get(address, "t1"))
    finally:
        process.terminate()
        _, log = process.communicate(timeout=PATIENCE_S)

    assert task.spec.task_id == "t1"
    assert process.returncode == 0, log
    assert "stopped" in log


async def submit(address: str, request: task_service_pb2.SubmitRequest) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await Stubs(channel).tasks.Submit(request, timeout=PATIENCE_S)


async def get(address: str, task_id: str) -> task_pb2.Task:
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await Stubs(channel).tasks.GetTask(
            task_service_pb2.GetTaskRequest(task_id=task_id), timeout=PATIENCE_S
        )
        return reply.task


@pytest.mark.slow
async def test_a_state_that_cannot_be_committed_ends_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[BaseException] = []
    one = node.Node(config.load(write_config(tmp_path), {}, {}), fatal=errors.append)
    await one.start()
    await until(one.group.leader.serving, "it leads")

    def fail(now_s: float) -> bool:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(one.group.store, "commit_due", fail)
        await until(lambda: bool(errors), "the node is told to end")
    await one.stop()

    assert isinstance(errors[0], DiskError)


@pytest.mark.slow
async def test_a_disk_that_takes_long_over_the_state_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through = threading.Event()
    sync = Store.sync_commit

    def wait(store: Store) -> None:
        assert through.wait(timeout=PATIENCE_S)
        sync(store)

    monkeypatch.setattr(Store, "sync_commit", wait)
    errors: list[BaseException] = []
    one = node.Node(config.load(write_config(tmp_path), {}, {}), fatal=errors.append)
    await one.start()
    await until(one.group.leader.serving, "it leads")
    await until(lambda: one.group.store.committing, "a commit of the state waits for the disk")
    durable = one.group.store.durable

    task = task_pb2.TaskSpec(task_id="meanwhile", queue="q", type="t")
    address = one._config.members["n1"].api
    await submit(address, task_service_pb2.SubmitRequest(request_id="r", tasks=[task]))

    assert (await get(address, "meanwhile")).state == task_pb2.TASK_STATE_PENDING
    assert one.group.store.durable == durable
    through.set()
    await until(lambda: one.group.store.durable == one.group.store.applied, "all of it is durable")
    await one.stop()
    assert errors == []


@pytest.mark.slow
async def test_what_a_slow_disk_has_not_taken_is_bounded_and_nothing_of_it_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To write down 20 MiB that were applied meanwhile held the event loop for 125 ms."""
    through = threading.Event()
    through.set()
    sync = Store.sync_commit

    def wait(store: Store) -> None:
        assert through.wait(timeout=PATIENCE_S)
        sync(store)

    monkeypatch.setattr(Store, "sync_commit", wait)
    errors: list[BaseException] = []
    one = node.Node(config.load(write_config(tmp_path), {}, {}), fatal=errors.append)
    await one.start()
    await until(one.group.leader.serving, "it leads")
    await until(lambda: one.group.store.durable == one.group.store.applied, "all of it is durable")
    through.clear()
    address = one._config.members["n1"].api
    large = 3 << 20

    async def submit_large() -> None:
        task = task_pb2.TaskSpec(queue="q", type="t", payload=bytes(large))
        for number in range(8):
            request = task_service_pb2.SubmitRequest(request_id=f"r{number}", tasks=[task])
            await submit(address, request)

    submitting = asyncio.create_task(submit_large())
    await until(lambda: one.group.store.full, "as much waits as may")
    await asyncio.sleep(0.2)

    assert one.group.store._pending_bytes < FULL_BYTES + 2 * large
    assert not submitting.done()
    through.set()
    await submitting
    await until(lambda: one.group.store.durable == one.group.store.applied, "all of it is durable")
    await one.stop()
    assert errors == []


@pytest.mark.slow
async def test_a_backup_waits_for_a_slow_disk_and_nothing_else_waits_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through = threading.Event()
    through.set()
    sync = Store.sync_commit

    def wait(store: Store) -> None:
        assert through.wait(timeout=PATIENCE_S)
        sync(store)

    def fail(_store: Store) -> None:
        raise AssertionError("the disk was waited for on the loop")

    errors: list[BaseException] = []
    one = node.Node(config.load(write_config(tmp_path), {}, {}), fatal=errors.append)
    address = one._config.members["n1"].api
    with monkeypatch.context() as slow:
        slow.setattr(Store, "sync_commit", wait)
        slow.setattr(Store, "commit", fail)
        await one.start()
        # Before that it has no state to copy.
        await until(lambda: queries.membership(one.group.store.view()) is not None, "it is formed")
        through.clear()
        async with grpc.aio.insecure_channel(address) as channel:
            call = Stubs(channel).cluster.Backup(cluster_service_pb2.BackupRequest())
            first = asyncio.ensure_future(call.read())
            await until(
                lambda: one.group.store.committing, "a commit of the state waits for the disk"
            )
            for n in range(3):
                task = task_pb2.TaskSpec(task_id=f"t{n}", queue="q", type="t")
                request = task_service_pb2.SubmitRequest(request_id=f"r{n}", tasks=[task])
                await submit(address, request)
            assert not first.done()
            through.set()
            part = await first
            call.cancel()
        assert isinstance(part, cluster_service_pb2.BackupResponse)
        assert part.summary.applied_index > 0
    await one.stop()
    assert errors == []


@pytest.mark.slow
async def test_a_state_that_cannot_be_synced_ends_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_store: Store) -> None:
        raise OSError(5, "Input/output error")

    errors: list[BaseException] = []
    one = node.Node(config.load(write_config(tmp_path), {}, {}), fatal=errors.append)
    with monkeypatch.context() as broken:
        broken.setattr(Store, "sync_commit", fail)
        await one.start()
        await until(lambda: bool(errors), "the node is told to end")
    await one.stop()

    assert isinstance(errors[0], DiskError)
    assert "cannot be synced" in str(errors[0])


async def test_after_a_disk_failed_the_state_is_looked_through_before_it_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config.load(write_config(tmp_path), {}, {})
    one = node.Node(settings, fatal=lambda _error: None)
    one.group.end(DiskError("the state cannot be committed: MDB_BAD_TXN"))
    await one._close()

    for told in (["the state cannot be committed: MDB_BAD_TXN"], []):
        caplog.clear()
        again = node.Node(settings, fatal=lambda _error: None)
        await again._close()

        lines = [line for line in caplog.records if line.message == "the last run failed"]
        assert [vars(line)["why"] for line in lines] == told
        assert [vars(line)["damage"] for line in lines] == ["none"] * len(told)


@pytest.mark.parametrize("name", ["os.posix_fallocate", "tq_cluster.raft.state_files._remove"])
async def test_a_node_keeps_its_data_directory_while_a_thread_of_it_is_at_work_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    begun, may_go_on = threading.Event(), threading.Event()
    work = pkgutil.resolve_name(name)

    def slowly(*arguments: object) -> None:
        begun.set()
        assert may_go_on.wait(timeout=PATIENCE_S)
        work(*arguments)

    monkeypatch.setattr(name, slowly)
    errors: list[BaseException] = []
    settings = config.load(write_config(tmp_path), {}, {})
    one = node.Node(settings, fatal=errors.append)
    await one.start()
    one.group._state_files.journal_agrees()
    await until(begun.is_set, "a thread is at work")

    stopping = asyncio.create_task(one.stop())
    await until(one.group.store.closing.is_set, "it has closed its state")
    held_at_work = is_locked(settings.data_dir / "node.lock")
    may_go_on.set()
    await stopping

    held_stopped = is_locked(settings.data_dir / "node.lock")
    shutil.rmtree(settings.data_dir)
    assert (held_at_work, held_stopped) == (True, False)
    assert errors == []


@pytest.mark.slow
def test_a_fatal_error_is_logged_and_ends_the_process_with_its_own_code() -> None:
    script = (
        "import logging; from tq_cluster.node import node; from tq_cluster.telemetry import logs\n"
        "logs.set_up(node_id='n1', style='text', level='info')\n"
        "node.end_process(OSError(5, 'fsync failed'))\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert result.returncode == node.EXIT_FATAL
    assert "critical the node stops" in result.stderr
    assert "fsync failed" in result.stderr


def test_what_the_node_has_words_for_is_logged_without_a_traceback() -> None:
    script = (
        "from tq_cluster import errors; from tq_cluster.node import node\n"
        "from tq_cluster.telemetry import logs\n"
        "logs.set_up(node_id='n1', style='text', level='info')\n"
        "node.end_process(errors.FatalError('told to stop by n2: this disk went back'))\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert result.returncode == node.EXIT_FATAL
    assert 'reason="told to stop by n2: this disk went back"' in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_broker_that_cannot_be_asked_for_its_health_is_told_by_the_cause() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        gone = run("health", "--address", address)
        server.listen()
        silent = run("health", "--address", address, "--timeout", "0.2")
    nonsense = run("health", "--address", "n1")

    assert (silent.returncode, silent.stderr) == (1, f"{address}: no answer within 0.2 s\n")
    assert (gone.returncode, gone.stderr) == (1, f"{address}: UNAVAILABLE: Connection refused\n")
    assert nonsense.returncode == 2
    assert "must be host:port" in nonsense.stderr
    assert "Traceback" not in nonsense.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kib", [0, 8], ids=["nothing", "hardly anything"])
def test_where_nothing_can_be_written_a_node_says_so_and_takes_no_state_for_damaged(
    tmp_path: Path, kib: int
) -> None:
    command = " ".join([*COMMAND, "serve", "--config", str(write_config(tmp_path))])

    result = subprocess.run(
        ["/bin/bash", "-c", f"ulimit -f {kib}; exec {command}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=ENVIRONMENT,
        check=False,
    )

    assert result.returncode == 2, result.stderr
    assert "File too large" in result.stderr
    assert re.search("give this node a data directory|see to its disk", result.stderr)
    assert "Traceback" not in result.stderr
    assert "rebuilt" not in result.stderr


@pytest.mark.slow
def test_what_fails_as_a_node_starts_or_stops_is_logged_like_what_fails_between() -> None:
    script = (
        "from tq_cluster import config, errors\n"
        "from tq_cluster.node import node\n"
        "async def fail(*_): raise errors.FatalError('the state cannot be committed')\n"
        "node._serve = fail\n"
        "member = config.Member(raft='127.0.0.1:7101', api='127.0.0.1:7001')\n"
        "node.serve(config.NodeConfig(node_id='n1', data_dir='n1', members={'n1': member}), None)\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert result.returncode == node.EXIT_FATAL
    assert 'the node stops reason="the state cannot be committed"' in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
async def test_a_leader_whose_fsync_is_slow_is_told_to_its_disk_watch_which_can_hand_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = node.Node(config.load(write_config(tmp_path), {}, {}), fatal=lambda _error: None)
    await one.start()
    await until(one.group.leader.serving, "it leads")
    told: list[float] = []
    monkeypatch.setattr(one.group.disk, "tick", lambda _status, running_s: told.append(running_s))
    monkeypatch.setattr(type(one.group._journal_syncer), "running_s", property(lambda _: 1.5))

    await until(lambda: 1.5 in told, "the watch was told of the fsync under way")
    await one.group.disk.hand_over("slow disk")
    monkeypatch.undo()
    await one.stop()

    # There is no other member to hand over to, which is no disaster.
    assert "nobody took over" in caplog.text
