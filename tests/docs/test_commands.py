"""Every command in the documents does what it is said to do, here or in a test that is named."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import tq_admin.__main__
from chaos.cluster.ports import free_addresses
from tests.cluster.ports import free_base_port
from tests.docs.commands import (
    DOCUMENTS,
    LANGUAGES,
    ROOT,
    blocks,
    commands,
    files,
    python_blocks,
)
from tests.docs.reader import Reader
from tests.patience import PATIENCE_S
from tq.v1.worker_service_pb2 import ClaimRequest, ReportRequest
from tq_client import AttemptEnd, Client, QueueSettings, TaskState

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("commands")]

THOSE_OF_AN_HOUR = "tq-admin dead-letters redrive --queue mail --error ConnectionError --since 4h"
ON_THE_CLUSTER = {
    "tq-admin cluster-status": "tq-admin cluster-status",
    "tq-admin submit default echo --payload hello --wait": (
        'tq-admin submit demo greet --payload {"name":"ann"} --wait'
    ),
    "tq-admin submit QUEUE TYPE": "tq-admin submit mail letter",
    "tq-admin status TASK_ID": "tq-admin status waits-1",
    "tq-admin list": "tq-admin list",
    "tq-admin cancel TASK_ID...": "tq-admin cancel waits-1 waits-2",
    "tq-admin retry TASK_ID...": "tq-admin retry dead-1 dead-2",
    "tq-admin purge QUEUE": "tq-admin purge full --yes",
    "tq-admin purge QUEUE --stop": "tq-admin purge full --stop",
    "tq-admin queues list": "tq-admin queues list",
    "tq-admin queues show QUEUE": "tq-admin queues show mail",
    "tq-admin queues configure QUEUE": "tq-admin queues configure mail --ordering aging",
    "tq-admin queues pause QUEUE": "tq-admin queues pause mail",
    "tq-admin queues resume QUEUE": "tq-admin queues resume mail",
    "tq-admin queues delete QUEUE": "tq-admin queues delete unused",
    "tq-admin queue-depth": "tq-admin queue-depth",
    "tq-admin stats": "tq-admin stats --interval 10ms",
    "tq-admin workers": "tq-admin workers",
    "tq-admin dead-letters list": "tq-admin dead-letters list",
    "tq-admin dead-letters groups": "tq-admin dead-letters groups",
    **{
        command: command
        for command in (
            f"{THOSE_OF_AN_HOUR} --dry-run",
            THOSE_OF_AN_HOUR,
            "tq-admin dead-letters delete --queue mail --error mailbox --dry-run",
        )
    },
    "tq-admin dead-letters show TASK_ID": "tq-admin dead-letters show dead-3",
    "tq-admin dead-letters redrive": "tq-admin dead-letters redrive dead-4",
    "tq-admin dead-letters redrive --force TASK_ID": (
        "tq-admin dead-letters redrive --force dead-5"
    ),
    "tq-admin retry TASK_ID": "tq-admin retry dead-6",
    "tq-admin submit shop charge --id charge-7": "tq-admin submit shop charge --id charge-7",
    "tq-admin submit shop refund --id refund-7 --after charge-7:not-completed": (
        "tq-admin submit shop refund --id refund-7 --after charge-0:not-completed"
    ),
    "tq-admin submit shop close --id close-7 --after charge-7:ended --after refund-7:ended": (
        "tq-admin submit shop close --id close-7 --after charge-0:ended --after close-0:ended"
    ),
    "tq-admin status close-7": "tq-admin status close-0",
    "tq-admin list --state blocked": "tq-admin list --state blocked",
    "tq-admin dead-letters delete": "tq-admin dead-letters delete --queue mail --yes",
    "tq-admin dead-letters list --reason UNCERTAIN": (
        "tq-admin dead-letters list --reason UNCERTAIN"
    ),
    "tq-admin dead-letters redrive --reason UNCERTAIN": (
        "tq-admin dead-letters redrive --reason UNCERTAIN"
    ),
    "tq-admin verify": "tq-admin verify",
    "tq-admin verify --status": "tq-admin verify --status",
    "tq-admin server-info": "tq-admin server-info",
    "tq-admin transfer-leadership [NODE]": "tq-admin transfer-leadership",
}
"""Run here against three brokers; what is left to the reader (which task, which queue) is put in,
and in their order: what a later one needs an earlier one leaves.
"""

TO_THEIR_END = {
    ". .venv/bin/activate": ". .venv/bin/activate",
    "make": "make",
    "make format": "make -n format",
    "make lock": "make -n lock",
    "make api-docs": "make -n api-docs",
    "make demo": "make -n demo",
    "scripts/check_words.py": "python scripts/check_words.py",
    "make test-fast": "make -n test-fast",
    "make bench": "make -n bench",
    "make chaos": "make -n chaos",
    "make regression": "make -n regression",
    "make regression ARGS='--base REF'": "make -n regression ARGS='--base HEAD'",
    "make test ARGS='-m \"not cluster\"'": "make -n test ARGS='-m \"not cluster\"'",
    "python -m chaos": "python -m chaos --help",
    "python -m chaos list": "python -m chaos list",
    "python -m chaos.abuse": "python -m chaos.abuse --help",
    "python -m chaos mutants": "python -m chaos mutants --help",
    "python -m chaos outages --kills 100": "python -m chaos outages --help",
    "python -m chaos report": "python -m chaos report --help",
    "python -m chaos run --against 10.0.0.1:7001,10.0.0.2:7001,10.0.0.3:7001 --duration 300": (
        "python -m chaos run --help"
    ),
    "python -m chaos run --profile abuse --duration 3600": "python -m chaos run --help",
    "python -m chaos run --profile ci": "make -n chaos",
    "python -m chaos run --profile nightly --duration 28800": "python -m chaos run --help",
    "python -m chaos run --scenario kill": "python -m chaos run --help",
    "python -m chaos run --scenario lost-majority": "python -m chaos run --help",
    "python -m chaos run --scenario kill --seed 41": "python -m chaos run --help",
    "python -m benchmarks outage": "python -m benchmarks outage --help",
    "python -m benchmarks.callers": "python -m benchmarks.callers --help",
    "python -m benchmarks.elections": "python -m benchmarks.elections --help",
    "python -m benchmarks.flames --out flames": "python -m benchmarks.flames --help",
    "python -m benchmarks.housekeeping": "python -m benchmarks.housekeeping --help",
    "python -m benchmarks.peers": "python -m benchmarks.peers --help",
    "python -m benchmarks.plots --out plots": "python -m benchmarks.plots --help",
    "python -m benchmarks.regression --same": "python -m benchmarks.regression --help",
    "python -m benchmarks.soak": "python -m benchmarks.soak --help",
    "python -m benchmarks.soak --rate 10000 --minutes 30": "python -m benchmarks.soak --help",
    "python -m benchmarks.sweep": "python -m benchmarks.sweep --list",
    "python -m benchmarks.sweep --tasks 20000 --only Report": (
        "python -m benchmarks.sweep --list --only Report"
    ),
    "python -m benchmarks.upgrade": "python -m benchmarks.upgrade --help",
    "python -m tests.simulation run --seeds 10000": "python -m tests.simulation run --seeds 1",
    "tq-cluster check-config": "tq-cluster check-config --config cluster-configs/node1.yaml",
    "tq-worker check-config": "tq-worker check-config --config cluster-configs/worker.yaml",
}
"""Run here, in the checkout. What takes minutes, or changes the checkout, is only read: with `-n`
make says what it would do.
"""

NAMED = {
    "tq-admin queues configure",
    "tq-admin queues resume",
    "tq-admin submit",
    "tq-cluster check-backup",
    "tq-cluster recover",
    "tq-cluster restore",
    "tq-cluster serve",
    "tq-worker check",
    "tq-worker run",
}
"""Spoken of without what they need: their help answers."""

BY_THE_READER = {
    "tq-cluster dev",
    "tq-worker run --handlers greetings --queues demo",
    "tq-worker run --handlers exports --queues exports --lease 10s",
    "tq-worker run --handlers images --queues images",
    "tq-worker check --handlers images --queues images",
    "tq-worker run --handlers sums --queues sums",
    "tq-worker run --handlers shop --queues shop",
    "python order.py 7",
    "python order.py 107",
    "tq-cluster serve --config FILE",
    "tq-cluster health",
    "python caller.py",
    "tq-admin --install-completion",
}
"""Each in a test below, by its own name."""

BY_THE_GATE = {
    ".ci/run",
    "lint-imports",
    "make check",
    "make imports",
    "make protos",
    "make setup",
    "make test",
    "make test-compose",
}
"""Stages of .ci/run, or what makes them up; run here they would run themselves."""

GENERATING = (
    "tests/languages/test_generating.py::test_every_command_of_the_document_makes_its_stubs"
)
RESTARTING = (
    "tests/deploy/test_rolling_restart.py::test_restarting_every_broker_in_turn_fails_no_call"
)
CONTAINERS = (
    "tests/compose/test_compose.py::"
    "test_containers_killed_and_paused_cost_no_task_and_the_cluster_heals"
)
RESTORING = (
    "tests/recovery/test_backup_and_restore.py::"
    "test_a_new_cluster_made_of_a_backup_has_its_tasks_and_none_of_its_leases"
)
BY_A_FILE = "tests/worker/test_command.py::test_a_worker_runs_by_its_file"
RESTORE_COMMAND = (
    "tests/recovery/test_restore_command.py::test_the_commands_say_what_they_did_and_what_is_next"
)
REPLACING = (
    "tests/recovery/test_replace_node.py::"
    "test_a_node_that_lost_its_disk_is_replaced_and_another_may_die_then"
)
DRAWING = (
    "tests/test_node.py::test_a_secret_is_drawn_by_a_command_that_leaves_one_that_is_there_alone"
)
INSTALLING = (
    "tests/docs/test_installing.py::test_a_project_of_ones_own_installs_tq_and_checks_its_handlers"
)
OVERRIDE = "tests/docs/test_image.py::test_the_override_of_the_page_is_one_of_the_clusters_file"
BY_ANOTHER_TEST = {
    "tq-worker run --config FILE": BY_A_FILE,
    "tq-cluster draw-secret FILE": DRAWING,
    "tq-cluster draw-secret /etc/tq/cluster-secret": DRAWING,
    "tq-cluster recover --disk DIR --disk DIR": (
        "tests/recovery/test_recover.py::test_recovery_is_refused_where_nothing_need_be_lost"
    ),
    "tq-admin replace-node NODE": REPLACING,
    "tq-admin replace-node n3": REPLACING,
    "tq-admin backup FILE": RESTORING,
    "tq-cluster check-backup FILE": RESTORE_COMMAND,
    "tq-cluster restore --backup FILE --config node.yaml": RESTORE_COMMAND,
    "buf generate --path proto/tq/v1 --template go.gen.yaml": GENERATING,
    "protoc -I proto --java_out=gen --grpc-java_out=gen proto/tq/v1/*.proto": GENERATING,
    "protoc -I proto --csharp_out=gen --grpc_out=gen "
    '--plugin=protoc-gen-grpc="$(command -v grpc_csharp_plugin)" proto/tq/v1/*.proto': GENERATING,
    "python -m grpc_tools.protoc -I proto --python_out=gen --grpc_python_out=gen "
    "proto/tq/v1/*.proto": GENERATING,
    "python -m grpc_tools.protoc": GENERATING,
    "deploy/rolling-restart --restart 'ssh {host} sudo systemctl restart tq-cluster@{node}'": (
        RESTARTING
    ),
    "export TQ_ADDRESS=10.0.0.1:7001,10.0.0.2:7001,10.0.0.3:7001": RESTARTING,
    "docker compose -f docker-compose.cluster.yml restart {node}": RESTARTING,
    "docker compose -f docker-compose.cluster.yml up -d --wait": CONTAINERS,
    "docker compose -f docker-compose.cluster.yml down": CONTAINERS,
    "docker compose -f docker-compose.cluster.yml --profile monitoring up -d": (
        "tests/compose/test_compose.py::test_every_compose_takes_the_file_with_and_without_monitoring"
    ),
    "tq-admin monitor": "tests/admin/test_monitor.py::test_q_ends_what_is_shown_on_a_terminal",
    # These change the machine they run on; the tests hold what they start and install.
    "docker compose -f docker-compose.cluster.yml build n1": OVERRIDE,
    "docker compose -f docker-compose.cluster.yml -f shop.yml up -d --build --wait": OVERRIDE,
    "python3 -m venv .venv": INSTALLING,
    "pip install ../tq": INSTALLING,
    "tq-worker check --handlers shop.tasks --queues shop": INSTALLING,
    "uvicorn web:app --workers 2": (
        "tests/docs/test_fastapi.py::test_the_application_submits_waits_and_cancels"
    ),
    "pip wheel .": (
        "tests/project/test_build.py::test_a_wheel_of_a_bare_checkout_carries_the_generated_package"
    ),
    "pip install PATH": (
        "tests/project/test_build.py::test_a_wheel_of_a_bare_checkout_carries_the_generated_package"
    ),
    "pip install 'tq[otel]'": (
        "tests/test_tracing.py::test_the_extra_that_is_named_brings_what_exports_traces"
    ),
    "python3 -m venv /opt/tq": (
        "tests/deploy/test_units.py::test_the_broker_unit_runs_commands_that_exist"
    ),
    "/opt/tq/bin/pip install": (
        "tests/deploy/test_units.py::test_the_broker_unit_runs_commands_that_exist"
    ),
    "useradd --system tq": "tests/deploy/test_units.py::test_a_unit_runs_as_nobody_that_matters",
    "systemctl enable --now tq-cluster@n1": (
        "tests/deploy/test_units.py::test_the_broker_unit_runs_commands_that_exist"
    ),
    "journalctl -u tq-cluster@n1": (
        "tests/deploy/test_units.py::test_the_broker_unit_runs_commands_that_exist"
    ),
    "systemctl enable --now tq-worker@resize": (
        "tests/deploy/test_units.py::test_the_worker_unit_gives_a_command_line_that_the_worker_takes"
    ),
}
"""Run by the test that is named."""

ACCOUNTED_FOR = [
    set(ON_THE_CLUSTER),
    set(TO_THEIR_END),
    NAMED,
    BY_THE_READER,
    BY_THE_GATE,
    set(BY_ANOTHER_TEST),
]


def test_every_command_in_the_documents_is_accounted_for_once_and_here() -> None:
    told = {command.text: command.document for command in commands()}
    listed = [text for part in ACCOUNTED_FOR for text in part]

    assert len(listed) == len(set(listed))
    forgotten = {text: document for text, document in told.items() if text not in listed}
    assert not forgotten, "say in this file how each of these is run, or where"
    assert not set(listed) - set(told), "in no document any more"


def test_every_fenced_block_says_its_language() -> None:
    for path in DOCUMENTS:
        assert {language for language, _ in blocks(path)} <= LANGUAGES, path.name


@pytest.mark.parametrize("named", sorted(set(BY_ANOTHER_TEST.values())))
def test_the_test_that_runs_a_command_is_there(named: str) -> None:
    file, _, name = named.partition("::")

    assert f"def {name}(" in (ROOT / file).read_text()


def test_what_is_left_to_the_gate_is_a_stage_of_it() -> None:
    gate = (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()

    def is_run(target: str) -> bool:
        if re.search(rf"^ *stage .* {target}$", gate, re.MULTILINE):
            return True
        rule = re.search(rf"^{target}:([^#\n]*)", makefile, re.MULTILINE)
        # One that only gathers others, or one that a stage needs first.
        gathers = rule is not None and all(is_run(each) for each in rule[1].split()[1:] or "?")
        return gathers or re.search(rf"^setup: {target} ", makefile, re.MULTILINE) is not None

    for command in BY_THE_GATE - {".ci/run", "lint-imports"}:
        assert is_run(command.removeprefix("make ")), command
    assert re.search(r"^test: .*\n\t\$\(PY\) -m pytest", makefile, re.MULTILINE)
    assert re.search(r"^imports: .*\n\t\$\(VENV\)/bin/lint-imports$", makefile, re.MULTILINE)


@pytest.mark.parametrize("command", TO_THEIR_END.values())
def test_a_command_for_the_checkout_runs(command: str, tmp_path: Path) -> None:
    ended = Reader(tmp_path).type(command, inside=ROOT)

    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("command", sorted(NAMED))
def test_what_is_spoken_of_explains_itself(command: str, tmp_path: Path) -> None:
    ended = Reader(tmp_path).type(f"{command} --help")

    assert ended.returncode == 0, ended.stderr
    assert "usage:" in ended.stdout.lower()


def test_the_shell_is_taught_by_the_documented_command(tmp_path: Path) -> None:
    # tq-admin knows the shell by the process above: if something follows, bash stays there.
    ended = Reader(tmp_path).type("tq-admin --install-completion; echo done")

    assert "done" in ended.stdout, ended.stderr
    assert "tq-admin" in (tmp_path / ".bashrc").read_text()


@pytest.mark.cluster
def test_one_broker_runs_by_its_file_until_ctrl_c(tmp_path: Path) -> None:
    raft, api = free_addresses(2)
    members = {"n1": {"raft": raft, "api": api}}
    file = {"node_id": "n1", "data_dir": "data", "members": members, "single": True}
    (tmp_path / "FILE").write_text(yaml.safe_dump(file))
    broker = Reader(tmp_path).leave_running(
        "tq-cluster serve --config FILE", until="leadership begins"
    )

    assert broker.stop() == 0


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Somebody who has followed the README up to the caller: brokers, a handler, a worker."""
    reader = Reader(tmp_path_factory.mktemp("reader"))
    base_port = free_base_port()
    reader.environment["TQ_ADDRESS"] = ",".join(
        f"127.0.0.1:{base_port + number}" for number in range(3)
    )
    handler, _ = python_blocks("README.md")
    (reader.folder / "greetings.py").write_text(handler)
    brokers = reader.leave_running(
        f"tq-cluster dev --base-port {base_port}", until="leadership begins"
    )
    try:
        worker = reader.leave_running(
            "tq-worker run --handlers greetings --queues demo", until="worker ready"
        )
        try:
            yield reader
        finally:
            assert worker.stop() == 0, worker.said()
    finally:
        assert brokers.stop() == 0, brokers.said()


@pytest.fixture(scope="module")
def client(reader: Reader) -> Iterator[Client]:
    """Tasks for the commands to work on: some that wait, some that were given up."""
    with Client(reader.environment["TQ_ADDRESS"], timeout_s=60) as client:
        dead = [f"dead-{number}" for number in range(1, 7)]
        for task_id in dead:
            client.submit("mail", "letter", task_id=task_id)
        claimed = client.claim(
            ClaimRequest(worker_id="w1", queues=["mail"], max_tasks=len(dead))
        ).reply
        report = ReportRequest(worker_id="w1")
        for each in claimed.tasks:
            item = report.reports.add(task_id=each.spec.task_id, token=each.token)
            item.fail.error, item.fail.permanent = "550 no such mailbox", True
        client.report(report)
        for task_id in ("waits-1", "waits-2"):
            client.submit("mail", "letter", task_id=task_id)
        client.submit("full", "letter")
        client.submit("shop", "charge", task_id="charge-0")
        client.submit("shop", "close", task_id="close-0", depends_on=["charge-0"])
        client.configure_queue("unused", QueueSettings())
        yield client


@pytest.mark.cluster
def test_the_caller_of_the_readme_prints_what_its_handler_returned(reader: Reader) -> None:
    _, caller = python_blocks("README.md")
    (reader.folder / "caller.py").write_text(caller)

    ended = reader.type("python caller.py")

    assert ended.stdout == "hello world\n['hello ann', 'hello bob']\n", ended.stderr


@pytest.mark.cluster
@pytest.mark.parametrize("command", ON_THE_CLUSTER.values())
def test_a_command_for_the_cluster_does_its_work(
    reader: Reader, client: Client, command: str
) -> None:
    arguments = re.split(r"\s+", command.removeprefix("tq-admin "))
    environment = {"TQ_ADDRESS": reader.environment["TQ_ADDRESS"]}

    given = ["--timeout", f"{PATIENCE_S:.0f}s", *arguments]
    ended = CliRunner().invoke(tq_admin.__main__.app, given, env=environment)

    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout


@pytest.mark.cluster
def test_a_broker_is_asked_for_its_health(reader: Reader) -> None:
    addresses = reader.environment["TQ_ADDRESS"].split(",")

    ended = reader.type(f"tq-cluster health --address {addresses[0]}")

    assert (ended.returncode, ended.stdout) == (0, f"{addresses[0]}: SERVING\n")


@pytest.mark.cluster
def test_typed_tasks_are_checked_run_and_called_as_the_document_says(reader: Reader) -> None:
    module, caller, _, hooks = python_blocks("docs/worker.md")
    (reader.folder / "images.py").write_text(f"{module}\n{hooks}")
    (reader.folder / "calls.py").write_text(
        f"from images import *\n{caller}\n"
        "print(thumbnail, [handle.result().path for handle in handles], urgent.result().width)\n"
    )

    checked = reader.type("tq-worker check --handlers images --queues images")
    worker = reader.leave_running(
        "tq-worker run --handlers images --queues images", until="worker ready"
    )
    called = reader.type("python calls.py")
    ended = worker.stop()

    assert re.search(r"^resize +thread +images ", checked.stdout, re.MULTILINE), checked.stdout
    assert called.stdout == (
        "Thumbnail(path='a.png.200', width=200) ['b.png.50', 'c.png.50'] 100\n"
    ), called.stderr
    assert ended == 0


@pytest.mark.cluster
def test_a_task_is_run_again_later_as_the_page_says(reader: Reader, client: Client) -> None:
    _, _, snooze, _ = python_blocks("docs/worker.md")
    (reader.folder / "reports.py").write_text(snooze)
    worker = reader.leave_running(
        "tq-worker run --handlers reports --queues reports", until="worker ready"
    )
    ready = client.submit("reports", "fetch-report", b'{"name": "a-ready"}')
    early = client.submit("reports", "fetch-report", b'{"name": "b"}')

    ended = client.wait(ready)
    await_state(client, early, TaskState.RETRYING)
    task = client.get(early)

    assert ended.result == b'"fetched a-ready"', worker.said()
    assert task.attempts_made == 0
    assert [(each.end, each.error) for each in task.attempts] == [
        (AttemptEnd.RELEASED, "Snooze: the report is not ready")
    ]
    assert worker.stop() == 0, worker.said()


@pytest.mark.cluster
def test_tasks_are_cancelled_as_the_page_says(reader: Reader, client: Client) -> None:
    for name, text in files("docs/cancel.md").items():
        (reader.folder / name).write_text(text)
    worker = reader.leave_running(
        "tq-worker run --handlers exports --queues exports --lease 10s", until="worker ready"
    )
    thread = client.submit("exports", "export", b'{"pages": 1000000}')
    waiting = client.submit("exports", "export", b'{"pages": 1}', delay=3600)
    on_a_loop = client.submit("exports", "follow", b'{"seconds": 3600}')
    for task_id in (thread, on_a_loop):
        await_state(client, task_id, TaskState.RUNNING)
    await_file(reader.folder, "follow-*")

    told = reader.type(f"tq-admin cancel {thread} {waiting} {on_a_loop}")
    ended = [client.wait(task_id) for task_id in (thread, waiting, on_a_loop)]
    stopped = reader.type("python stop.py")

    assert told.returncode == 0, told.stderr
    assert [task.state for task in ended] == [TaskState.CANCELLED] * 3, worker.said()
    # A handler that had to be killed would have another error.
    stopped_itself = [(AttemptEnd.CANCELLED, "the task was cancelled")]
    assert [[(each.end, each.error) for each in task.attempts] for task in ended] == [
        stopped_itself,
        [],
        stopped_itself,
    ], worker.said()
    assert list(reader.folder.glob("follow-*")) == []
    assert stopped.stdout == "CANCELLED\n", stopped.stderr
    assert worker.stop() == 0, worker.said()


@pytest.mark.cluster
def test_tasks_wait_for_others_as_the_page_says(reader: Reader, client: Client) -> None:
    for name, text in files("docs/dependencies.md").items():
        (reader.folder / name).write_text(text)
    worker = reader.leave_running(
        "tq-worker run --handlers shop --queues shop", until="worker ready"
    )

    album = reader.type("python album.py")
    sent = reader.type("python order.py 7")
    paid_back = reader.type("python order.py 107")
    stubs = reader.type("python stubs.py")

    assert album.stdout == "summer is online\n", album.stderr
    assert sent.stdout.splitlines() == [
        "charge: COMPLETED",
        "ship: COMPLETED",
        "refund: CANCELLED",
        "close: COMPLETED",
    ], sent.stderr
    assert paid_back.stdout.splitlines() == [
        "charge: COMPLETED",
        "ship: FAILED",
        "refund: COMPLETED",
        "close: COMPLETED",
    ], paid_back.stderr
    assert stubs.stdout == "2 tasks\n", stubs.stderr
    assert worker.stop() == 0, worker.said()


def await_state(client: Client, task_id: str, state: TaskState) -> None:
    """Wait until a task is in a state."""
    within_s = time.monotonic() + PATIENCE_S
    while (seen := client.get(task_id).state) != state:
        assert time.monotonic() < within_s, f"{task_id} is {seen}, not {state}"
        time.sleep(0.02)


def await_file(folder: Path, pattern: str) -> None:
    """Wait until a handler has made a file."""
    within_s = time.monotonic() + PATIENCE_S
    while not list(folder.glob(pattern)):
        assert time.monotonic() < within_s, f"no {pattern}, only {list(folder.iterdir())}"
        time.sleep(0.02)


@pytest.mark.cluster
def test_a_celery_task_is_run_by_the_worker_of_its_document(reader: Reader, client: Client) -> None:
    [example] = [text for text in python_blocks("docs/coming-from.md") if '@task("add")' in text]
    (reader.folder / "sums.py").write_text(example)
    worker = reader.leave_running(
        "tq-worker run --handlers sums --queues sums", until="worker ready"
    )

    task = client.wait(client.submit("sums", "add", b"[2, 3]"))

    assert task.result == b"5"
    assert worker.stop() == 0
