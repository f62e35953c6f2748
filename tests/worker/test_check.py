"""The command `tq-worker check` as a person or a pipeline meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.conftest import ROOT, SHIPPED

pytestmark = pytest.mark.slow


def check(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run it where no broker is."""
    return subprocess.run(
        [sys.executable, "-m", "tq_worker", "check", *arguments],
        env={"PYTHONPATH": f"{ROOT}:{path}", "TQ_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_it_lists_the_handlers_without_a_broker_and_exits_with_0(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tq_worker import task\n\n"
        "print('imported')\n\n"
        "@task('resize', queue='images')\ndef resize(path: str, size: int) -> str: ...\n\n"
        "@task(execution='process', concurrency=2)\nasync def later(at: 'Instant') -> None: ...\n\n"
        "Instant = int\n"
    )

    ended = check("--handlers", f"{SHIPPED},mine", "--limit", "resize=3", path=tmp_path)

    assert ended.stdout.splitlines() == [
        "TYPE        EXECUTION  QUEUE    LIMIT",
        "compute     thread     -        -",
        "echo        async      -        -",
        "fail        async      -        -",
        "mine.later  process    default  2",
        "resize      thread     images   3",
        "sleep       async      -        -",
    ]
    assert (ended.stderr, ended.returncode) == ("imported\n", 0)


def test_it_warns_of_handlers_whose_tasks_go_to_queues_that_are_not_served(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tq_worker import task\n\n"
        "@task('resize', queue='images')\ndef resize(path: str) -> str: ...\n\n"
        "@task('mail', queue='mails')\ndef mail(to: str) -> None: ...\n"
    )

    ended = check("--handlers", f"{SHIPPED},mine", "--queues", "other, mails", path=tmp_path)

    assert ended.returncode == 0
    assert [each for each in ended.stdout.splitlines() if "warning" in each] == [
        "warning: resize is submitted to queue images, from which this worker does not claim"
    ]


def test_all_mistakes_of_options_and_handlers_are_said_together(tmp_path: Path) -> None:
    (tmp_path / "typo.py").write_text("import json\n\nx = jsn\n")
    (tmp_path / "odd.py").write_text(
        "from tq_worker import task\n\n@task('odd')\ndef odd(at: 'Nowhere') -> None: ...\n"
    )

    ended = check(
        *("--handlers", "typo,not-a-module,odd", "--queues", "a b", "--lease", "1day"),
        path=tmp_path,
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        "tq-worker: the configuration has 3 mistakes:",
        (
            "  handlers (--handlers): 'not-a-module' cannot be a name here;"
            " right is modules like package.module"
        ),
        (
            "  queues (--queues): 'a b' cannot be a name here;"
            " right is 1 to 128 characters of A-Z a-z 0-9 . _ -"
        ),
        "  lease (--lease): must be a time such as 500ms, 30s, 5m or 1h, from 1s to 1h; is '1day'",
        (
            "tq-worker: --handlers typo: cannot be imported: NameError: name 'jsn' is not defined "
            f"(at {tmp_path}/typo.py, line 3)"
        ),
        "tq-worker: @task('odd'): odd.odd: name 'Nowhere' is not defined",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", "no function there is decorated with @task"),
        ("import os\nos._exit(9)\n", "while imported, the handler process exited with code 9"),
    ],
)
def test_what_run_would_refuse_is_refused_for_the_same_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "odd.py").write_text(text)

    ended = check("--handlers", "odd", path=tmp_path)

    assert (ended.returncode, ended.stderr) == (2, f"tq-worker: --handlers odd: {reason}\n")


def test_threads_that_a_module_starts_do_not_keep_it_waiting(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import threading\n\nthreading.Thread(target=threading.Event().wait).start()\n"
    )

    ended = check("--handlers", f"busy,{SHIPPED}", path=tmp_path)

    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_worker_is_checked_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tq_worker import task\n\n@task('resize')\ndef resize(path: str) -> str: ...\n"
    )
    path = tmp_path / "worker.yaml"
    path.write_text("handlers: [mine]\nqueues: [default]\nlimit: {resize: 3}\n")

    right = check("--config", str(path), path=tmp_path)
    wrong = check("--config", str(path), "--limit", "other=1", path=tmp_path)

    assert right.stdout.splitlines() == [
        "TYPE    EXECUTION  QUEUE    LIMIT",
        "resize  thread     default  3",
    ]
    assert (right.stderr, right.returncode) == ("", 0)
    assert (wrong.stderr, wrong.returncode) == (
        "tq-worker: --limit other: no handler for this type; there are: resize\n",
        2,
    )
