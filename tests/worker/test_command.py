"""The command `tq-worker run` as a person or a supervisor meets it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from tests.patience import PATIENCE_S
from tests.worker.conftest import SAMPLES, SHIPPED, Facts
from tests.worker.fake_broker import FakeBroker

Process = asyncio.subprocess.Process
Run = Callable[..., Awaitable[Process]]


@pytest.fixture
async def run(broker: FakeBroker) -> AsyncIterator[Run]:
    """Start the command, and kill every process that still runs at the end."""
    processes: list[Process] = []

    async def start(*arguments: str, handlers: str | None = f"{SHIPPED},{SAMPLES}") -> Process:
        needed = ["--handlers", handlers, "--queues", "q"] if handlers is not None else []
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tq_worker", "run", *needed),
            *("--address", broker.address, *arguments),
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            await process.communicate()


def handler_processes(process: Process) -> list[psutil.Process]:
    """Those of a worker's children that run handlers."""
    children = psutil.Process(process.pid).children()
    return [each for each in children if "tq_worker.child" in each.cmdline()]


async def output_of(process: Process) -> str:
    """Wait for its end; returns what it wrote to standard error."""
    _, errors = await process.communicate()
    return errors.decode()


@pytest.mark.slow
async def test_sigterm_finishes_what_runs_and_exits_with_0(
    broker: FakeBroker, facts: Facts, run: Run
) -> None:
    process = await run("--log-format", "json", "--worker-id", "me")
    [task_id] = await broker.submit("until-file", facts.payload)
    await facts.until("started")
    await broker.until(lambda: broker.claimants == 1, "a claim that waits")

    process.send_signal(signal.SIGTERM)
    await broker.until(lambda: broker.claimants == 0, "no more claims")
    facts.path.with_name("facts.go").touch()
    output = await output_of(process)

    assert process.returncode == 0, output
    assert broker.tasks[task_id].ends == ["completed"]
    assert broker.tasks[task_id].worker_id == "me"
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [each["event"] for each in events] == [
        "handler process started",
        "worker ready",
        "worker drains",
        "worker ends",
    ]
    assert events[1]["worker_id"] == "me"
    assert "echo" in events[1]["types"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_releases_what_runs_and_exits_with_0(
    broker: FakeBroker, facts: Facts, run: Run, number: signal.Signals
) -> None:
    process = await run()
    [task_id] = await broker.submit("stubborn", facts.payload)
    await facts.until("started")
    await broker.until(lambda: broker.claimants == 1, "a claim that waits")

    process.send_signal(number)
    await broker.until(lambda: broker.claimants == 0, "no more claims")
    process.send_signal(number)
    output = await output_of(process)

    assert process.returncode == 0, output
    assert broker.tasks[task_id].ends == ["released"]


@pytest.mark.slow
async def test_a_worker_runs_by_its_file(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "worker.yaml"
    path.write_text(
        f"handlers: [{SHIPPED}]\nqueues: [other, q]\nworker_id: mine\nlog: {{format: json}}\n"
    )
    process = await run("--config", str(path), handlers=None)

    [task_id] = await broker.submit("echo")
    [task] = await broker.until_ended([task_id])
    process.terminate()
    lines = [json.loads(line) for line in (await output_of(process)).splitlines()]

    assert process.returncode == 0
    assert (task.state, task.worker_id) == ("COMPLETED", "mine")
    [ready] = [line for line in lines if line["event"] == "worker ready"]
    assert ready["worker_id"] == "mine"


async def test_everything_wrong_with_the_command_line_is_said_at_once(run: Run) -> None:
    process = await run(
        *("--queues", "a b,ok", "--concurrency", "0", "--processes", "x"),
        *("--lease", "1day", "--drain-timeout", "2days", "--log-format", "xml"),
        *("--address", "nowhere,h:99999", "--worker-id", ""),
        *("--process-slots", "0", "--limit", "resize", "--max-tasks-per-child", "0"),
        *("--max-memory-per-child", "1GB", "--deaf-after", "1s", "--metrics-listen", "here"),
        handlers="no-module",
    )

    output = await output_of(process)

    assert process.returncode == 2
    assert output.splitlines() == [
        "tq-worker: the configuration has 15 mistakes:",
        (
            "  handlers (--handlers): 'no-module' cannot be a name here;"
            " right is modules like package.module"
        ),
        (
            "  queues (--queues): 'a b' cannot be a name here;"
            " right is 1 to 128 characters of A-Z a-z 0-9 . _ -"
        ),
        (
            "  address (--address): address 'nowhere': must be host:port, such as 127.0.0.1:7001; "
            "address 'h:99999': port 99999 is out of range; right is 1 to 65535;"
            " is 'nowhere,h:99999'"
        ),
        "  concurrency (--concurrency): must be a whole number from 1 to 1000; is '0'",
        "  processes (--processes): must be a whole number from 1 to 64; is 'x'",
        "  process_slots (--process-slots): must be a whole number from 1 to 64; is '0'",
        (
            "  limit (--limit): 'resize' is no limit; right is a type, and a whole number from 1"
            " to 1000, such as resize=2"
        ),
        (
            "  max_tasks_per_child (--max-tasks-per-child): must be a whole number from 1 to"
            " 1000000000; is '0'"
        ),
        (
            "  max_memory_per_child_mb (--max-memory-per-child): must be a whole number from 1 to"
            " 1000000; is '1GB'"
        ),
        "  lease (--lease): must be a time such as 500ms, 30s, 5m or 1h, from 1s to 1h; is '1day'",
        (
            "  drain_timeout (--drain-timeout): must be a time such as 500ms, 30s, 5m or 1h,"
            " from 0s to 24h; is '2days'"
        ),
        (
            "  deaf_after (--deaf-after): must be a time such as 500ms, 30s, 5m or 1h,"
            " from 2s to 1h; is '1s'"
        ),
        "  worker_id (--worker-id): has 0 characters; right is 1 to 200",
        "  log.format (--log-format): is 'xml'; right is one of 'text' or 'json'",
        (
            "  metrics_listen (--metrics-listen): must be host:port, such as 127.0.0.1:7001;"
            " is 'here'"
        ),
    ]


async def test_handler_modules_that_cannot_be_used_are_named_with_the_reason(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}:{tmp_path}")
    broken = {
        "has_typo": "import json\n\nx = jsn\n",
        "no_types": "from tq_worker import task\n\n@task('a')\ndef a(payload): ...\n",
        "twice": f"from tq_worker import task\nimport {SHIPPED}\n\n"
        "@task('echo')\ndef b(payload, context): ...\n",
        "bad_type": "from tq_worker import task\n\n@task('a b')\ndef a(payload, context): ...\n",
    }
    for name, text in broken.items():
        (tmp_path / f"{name}.py").write_text(text)

    process = await run(handlers=",".join(["absent", *broken]))
    output = await output_of(process)

    assert process.returncode == 2
    assert [line for line in output.splitlines() if line.startswith("tq-worker: ")] == [
        (
            "tq-worker: --handlers absent: cannot be imported: ModuleNotFoundError: "
            "No module named 'absent'"
        ),
        (
            "tq-worker: --handlers has_typo: cannot be imported: NameError: "
            f"name 'jsn' is not defined (at {tmp_path}/has_typo.py, line 3)"
        ),
        (
            "tq-worker: --handlers no_types: cannot be imported: TypeError: @task('a'): a: its "
            "parameter payload has no type: write payload: str, or whichever it is; a handler of "
            f"bytes is (payload: bytes, context: TaskContext) (at {tmp_path}/no_types.py, line 3)"
        ),
        (
            "tq-worker: --handlers twice: cannot be imported: ValueError: "
            "@task('echo'): both tq_worker.handlers.echo.echo and twice.b claim this type "
            f"(at {tmp_path}/twice.py, line 4)"
        ),
        (
            "tq-worker: --handlers bad_type: cannot be imported: ValueError: "
            "@task('a b'): a task type is 1 to 128 characters of A-Z a-z 0-9 . _ : - "
            f"(at {tmp_path}/bad_type.py, line 3)"
        ),
    ]
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", "no function there is decorated with @task"),
        ("import os\nos._exit(9)\n", "while imported, the handler process exited with code 9"),
    ],
)
async def test_a_module_without_handlers_or_that_ends_the_process_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}:{tmp_path}")
    (tmp_path / "odd.py").write_text(text)

    process = await run("--processes", "2", handlers="odd")
    output = await output_of(process)

    assert process.returncode == 2
    problems = [line for line in output.splitlines() if line.startswith("tq-worker: ")]
    assert problems == [f"tq-worker: --handlers odd: {reason}"]


@pytest.mark.slow
async def test_handlers_may_be_in_the_current_directory_and_log_as_the_worker_does(
    broker: FakeBroker, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(f"from {SAMPLES} import *\n")
    process = await run("--log-format", "json", handlers="mine")

    [task_id] = await broker.submit("log")
    await broker.until_ended([task_id])
    process.terminate()

    lines = [json.loads(line) for line in (await output_of(process)).splitlines()]
    [line] = [line for line in lines if line["event"] == "seen"]
    assert (line["level"], line["task_id"]) == ("info", task_id)


@pytest.mark.slow
async def test_what_a_handler_logs_says_which_attempt_it_belongs_to(
    broker: FakeBroker, run: Run
) -> None:
    process = await run("--log-format", "json")
    ids = [*await broker.submit("log-plainly"), *await broker.submit("log-plainly-in-thread")]
    await broker.until_ended(ids)
    process.terminate()

    lines = [json.loads(line) for line in (await output_of(process)).splitlines()]
    told = {line["task_id"]: line for line in lines if line["event"] == "plain"}
    assert sorted(told) == sorted(ids)
    for task_id in ids:
        line = told[task_id]
        assert (line["queue"], line["attempt"]) == ("q", 1)
        assert task_id.startswith(line["type"])


@pytest.mark.slow
async def test_a_failure_is_logged_with_its_traceback_by_the_process_where_it_happened(
    broker: FakeBroker, run: Run
) -> None:
    process = await run("--log-format", "json")
    [sent] = await broker.submit("flaky-for-ever", max_attempts=2)
    [task] = await broker.until_ended([sent])
    process.terminate()

    lines = [json.loads(line) for line in (await output_of(process)).splitlines()]
    told = [line for line in lines if line["event"] == "attempt failed"]
    assert [(each["level"], each["attempt"]) for each in told] == [("warning", 1), ("error", 2)]
    for each in told:
        assert (each["task_id"], each["type"]) == (sent, "flaky-for-ever")
        assert each["error"] == "OSError: first line"
        assert "OSError: first line\nsecond line" in each["exception"]
        assert "in flaky_for_ever" in each["exception"]
        assert "tq_worker" not in each["exception"]
    assert task.error.startswith("OSError: first line\nsecond line")


@pytest.mark.slow
async def test_handlers_that_set_up_logging_do_not_silence_failures(
    broker: FakeBroker, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}:{tmp_path}")
    (tmp_path / "own_logging.py").write_text(
        "import logging.config\n"
        "logging.config.dictConfig({\n"
        "    'version': 1,\n"
        "    'filters': {'tq': {'()': 'tq_worker.TaskLogFilter'}},\n"
        "    'formatters': {'own': {'format': 'OWN %(task_id)s %(message)s'}},\n"
        "    'handlers': {'err': {'class': 'logging.StreamHandler', 'filters': ['tq'],\n"
        "                         'formatter': 'own'}},\n"
        "    'root': {'handlers': ['err'], 'level': 'INFO'},\n"
        "})\n"
        "from tests.worker.sample_handlers import *\n"
    )
    process = await run(handlers="own_logging")
    [sent] = await broker.submit("permanent")
    await broker.until_ended([sent])
    process.terminate()

    lines = (await output_of(process)).splitlines()
    assert f"OWN {sent} attempt failed" in lines


@pytest.mark.slow
@pytest.mark.parametrize("task_type", ["until-cancelled", "until-cancelled-sync"])
async def test_a_failure_that_the_worker_finds_out_is_a_warning_of_its_own(
    broker: FakeBroker, run: Run, facts: Facts, task_type: str
) -> None:
    process = await run("--log-format", "json")
    [sent] = await broker.submit(task_type, facts.payload, timeout_s=0.2, max_attempts=1)
    await broker.until_ended([sent])
    process.terminate()

    lines = [json.loads(line) for line in (await output_of(process)).splitlines()]
    told = [line for line in lines if line["event"] == "attempt failed"]
    assert [(each["level"], each["error"]) for each in told] == [
        ("warning", "timed out after 0.2 s")
    ]


@pytest.mark.slow
async def test_with_reload_each_end_has_a_line(broker: FakeBroker, run: Run) -> None:
    process = await run("--log-format", "json", "--reload")
    [sent] = await broker.submit("echo")
    await broker.until_ended([sent])
    process.terminate()

    lines = [json.loads(line) for line in (await output_of(process)).splitlines()]
    events = [line["event"] for line in lines if line.get("task_id") == sent]
    assert events == ["attempt completed"]


@pytest.mark.slow
async def test_a_worker_is_ready_once_a_broker_has_answered(broker: FakeBroker, run: Run) -> None:
    await broker.stop()
    process = await run()
    assert process.stderr is not None
    seen = []
    while b"tasks cannot be claimed" not in (line := await process.stderr.readline()):
        assert line, "it ended without a word"
        seen.append(line)
    assert b"worker ready" not in b"".join(seen)

    await broker.start()

    async with asyncio.timeout(PATIENCE_S):
        while b"worker ready" not in (line := await process.stderr.readline()):
            assert line, "it ended without being ready"


@pytest.mark.slow
async def test_a_worker_without_brokers_says_so_and_goes_on_when_they_come(
    broker: FakeBroker, run: Run
) -> None:
    await broker.stop()
    process = await run()
    assert process.stderr is not None
    while b"tasks cannot be claimed" not in (line := await process.stderr.readline()):
        assert line, "it ended without a word"

    await broker.start()

    [task] = await broker.until_ended(await broker.submit("echo"))
    assert task.state == "COMPLETED"


@pytest.mark.slow
async def test_every_line_is_json_where_json_was_asked_for(broker: FakeBroker, run: Run) -> None:
    process = await run("--log-format", "json")
    await broker.until_ended(await broker.submit("echo"))

    await broker.stop()
    await broker.start()
    await broker.until_ended(await broker.submit("fail", max_attempts=1))
    process.terminate()

    lines = (await output_of(process)).splitlines()
    assert [line for line in lines if not line.startswith("{")] == []
    assert "attempt failed" in [json.loads(line)["event"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("task_type", ["stubborn", "hog-forever"])
async def test_handlers_die_with_a_worker_that_is_killed(
    broker: FakeBroker, facts: Facts, run: Run, task_type: str
) -> None:
    process = await run("--processes", "2")
    await broker.submit(task_type, facts.payload, count=2)
    await facts.until("started", count=2)
    children = handler_processes(process)

    process.kill()

    assert len(children) == 2
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert (len(gone), alive) == (2, [])


@pytest.mark.slow
async def test_a_handler_does_not_outlive_its_lease_when_the_worker_itself_is_stopped(
    broker: FakeBroker, facts: Facts, run: Run
) -> None:
    process = await run("--lease", "1s")
    await broker.submit("stubborn", facts.payload)
    await facts.until("started")
    [child] = handler_processes(process)

    process.send_signal(signal.SIGSTOP)

    # A zombie: the worker cannot reap it.
    await broker.until(lambda: child.status() == psutil.STATUS_ZOMBIE, "the handler's end")
    process.send_signal(signal.SIGCONT)
    [echo] = await broker.submit("echo")
    await broker.until_ended([echo])


async def test_an_idle_worker_is_small(broker: FakeBroker, run: Run) -> None:
    process = await run()
    await broker.until_ended(await broker.submit("echo", count=100))
    parent = psutil.Process(process.pid)
    [child] = handler_processes(process)

    parent_bytes = parent.memory_info().rss
    child_bytes = child.memory_info().rss

    assert parent_bytes < 60_000_000
    assert parent_bytes + child_bytes < 100_000_000


@pytest.mark.slow
async def test_a_worker_started_with_broken_code_waits_for_it_to_be_mended_if_it_reloads(
    broker: FakeBroker, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}:{tmp_path}")
    code = tmp_path / "broken.py"
    code.write_text("from tq_worker import task\n\n@task('late'\n")
    process = await run("--reload", handlers="broken")
    assert process.stderr is not None
    said = b""
    while b"waiting for the next change" not in said:
        line = await process.stderr.readline()
        assert line, said
        said += line

    code.write_text(
        "from tq_worker import task\n\n@task('late')\nasync def late(payload, context): ...\n"
    )

    [task] = await broker.until_ended(await broker.submit("late"))
    assert task.state == "COMPLETED"
    assert b"tq-worker: --handlers broken: cannot be imported: SyntaxError: " in said
    process.terminate()
    assert "Traceback" not in said.decode() + await output_of(process)
    assert process.returncode == 0


async def test_a_worker_that_waits_for_code_to_be_mended_leaves_when_told_to(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}:{tmp_path}")
    (tmp_path / "broken.py").write_text("x = = 1\n")
    process = await run("--reload", handlers="broken")
    assert process.stderr is not None
    while b"waiting for the next change" not in (line := await process.stderr.readline()):
        assert line, "it ended without a word"

    process.send_signal(signal.SIGINT)

    assert "Traceback" not in await output_of(process)
    assert process.returncode == 2
