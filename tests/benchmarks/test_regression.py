"""The check of the processor time a task: its verdicts, its order, its end, and what it leaves."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from rich.console import Console

from benchmarks.regression import driver
from benchmarks.regression.__main__ import EXIT_SLOWER, conclude
from benchmarks.regression.judge import Verdict, fewest, judge, overall, rates
from benchmarks.regression.pairs import (
    BASE,
    HEAD,
    TURNS,
    WORKLOADS,
    Pair,
    Run,
    measure_sides,
    measure_until_sure,
    order,
)
from benchmarks.regression.sides import DRIVER, Side, SideError
from benchmarks.regression.software import (
    HEAD_ROOT,
    Software,
    SoftwareError,
    base_commit,
    base_software,
    head_software,
)
from benchmarks.regression.table import print_table, write_json
from tests.patience import PATIENCE_S

LIMIT = 1.1
SEEDS = 200
NOISE = 0.08
"""Of a ratio: the standard deviation of its logarithm."""
PAIRS_MAX = 24


def pair(ratio: float = 1.0, **of: float) -> Pair:
    """A pair in which the head is so many times as slow, in all workloads or in the named ones."""
    return Pair(
        first=BASE,
        used_s={
            each.name: {
                BASE: {"brokers": 0.75, "worker": 0.25},
                HEAD: {
                    "brokers": 0.75 * of.get(each.name, ratio),
                    "worker": 0.25 * of.get(each.name, ratio),
                },
            }
            for each in WORKLOADS
        },
        others=0.0,
    )


def checked(seed: int, times: float, *, noise: float = NOISE) -> Run:
    """Run the check on a head whose lone tasks are ``times`` as slow."""
    draw = random.Random(seed)

    def measure(_number: int) -> Pair:
        true = {each.name: times if each.name == "lone" else 1.0 for each in WORKLOADS}
        return pair(**{name: each * math.exp(draw.gauss(0, noise)) for name, each in true.items()})

    run = Run(limit=LIMIT)
    for _ in measure_until_sure(
        run, measure, pairs=fewest(), pairs_max=PAIRS_MAX, within_s=math.inf, clock=lambda: 0.0
    ):
        pass
    return run


def verdicts(times: float, *, noise: float = NOISE) -> Counter[Verdict]:
    """Count the verdicts of many runs."""
    return Counter(checked(seed, times, noise=noise).verdict for seed in range(SEEDS))


@pytest.mark.slow
def test_software_that_did_not_change_passes() -> None:
    assert verdicts(1.0)[Verdict.PASSED] >= 0.99 * SEEDS


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "failing"), [(0.02, 0), (NOISE, 0), (0.15, 0), (0.3, 0.05)])
def test_software_that_did_not_change_does_not_fail_on_a_noisy_machine(
    noise: float, failing: float
) -> None:
    assert verdicts(1.0, noise=noise)[Verdict.SLOWER] <= failing * SEEDS


@pytest.mark.slow
def test_one_workload_that_is_a_quarter_slower_fails() -> None:
    assert verdicts(1.25)[Verdict.SLOWER] >= 0.99 * SEEDS


@pytest.mark.slow
def test_a_change_of_exactly_the_limit_is_mostly_unsure() -> None:
    found = verdicts(LIMIT)

    assert found[Verdict.UNSURE] >= 0.75 * SEEDS
    assert found[Verdict.SLOWER] <= 0.1 * SEEDS


def test_one_wild_pair_among_a_dozen_does_not_change_the_verdict() -> None:
    steady = [0.98, 1.0, 1.01, 0.99, 1.02, 1.0, 0.97, 1.03, 1.0, 1.01, 0.99]

    assert judge([*steady, 5.0], LIMIT).verdict is Verdict.PASSED
    assert judge([*(1.25 * each for each in steady), 0.2], LIMIT).verdict is Verdict.SLOWER


def test_fewer_than_six_pairs_allow_no_verdict() -> None:
    assert fewest() == 6
    assert judge([2.0] * 5, LIMIT).verdict is Verdict.UNSURE
    assert judge([2.0] * 6, LIMIT).verdict is Verdict.SLOWER
    assert judge([1.0] * 6, LIMIT).verdict is Verdict.PASSED


def test_the_interval_is_that_of_the_published_tables() -> None:
    """Of 6 pairs all 21 means are inside; of 10 pairs, 8 of the 55 are outside at each end."""
    logs = [float(number) for number in range(10)]
    means = sorted((one + other) / 2 for at, one in enumerate(logs) for other in logs[: at + 1])

    six = judge([math.exp(each) for each in logs[:6]], LIMIT)
    ten = judge([math.exp(each) for each in logs], LIMIT)

    assert (math.log(six.low), math.log(six.high)) == pytest.approx((0, 5))
    assert (math.log(ten.low), math.log(ten.high)) == pytest.approx((means[8], means[-9]))


def test_one_slower_workload_decides_and_an_unsure_one_is_not_passed() -> None:
    passed, slower = judge([1.0] * 6, LIMIT), judge([1.3] * 6, LIMIT)
    unsure = judge([1.0, 1.3] * 3, LIMIT)

    assert overall({"a": passed, "b": unsure, "c": slower}) is Verdict.SLOWER
    assert overall({"a": passed, "b": unsure}) is Verdict.UNSURE
    assert overall({"a": passed}) is Verdict.PASSED
    assert overall({}) is Verdict.UNSURE


@pytest.mark.slow
def test_pairs_of_equal_software_say_how_often_the_check_is_wrong() -> None:
    draw = random.Random(1)
    ratios = {each.name: [math.exp(draw.gauss(0, 0.05)) for _ in range(12)] for each in WORKLOADS}

    def share(times: float) -> dict[Verdict, float]:
        return rates(ratios, times=times, limit=LIMIT, pairs=6, pairs_max=12, runs=100)

    assert share(1.0)[Verdict.SLOWER] == 0
    assert share(1.25)[Verdict.SLOWER] > 0.95


class RecordedSide:
    """A side that answers at once, and writes down that it was asked."""

    def __init__(self, name: str, asked: list[tuple[str, str]]) -> None:
        self._name = name
        self._asked = asked

    async def measure(self, workload: str, tasks: int) -> dict[str, float]:
        await asyncio.sleep(0)
        assert tasks
        self._asked.append((workload, self._name))
        return {"brokers": 1.0, "caller": 0.5}


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "ABBAABBA"), (1, "BAABBAAB"), (2, "ABBAABBA")]
)
async def test_the_sides_take_turns_and_the_other_one_begins_the_next_pair(
    number: int, expected: str
) -> None:
    asked: list[tuple[str, str]] = []
    sides = {name: cast("Side", RecordedSide(name, asked)) for name in (BASE, HEAD)}

    used_s = await measure_sides(number, sides)

    letters = {BASE: "A", HEAD: "B"}
    for workload in WORKLOADS:
        assert "".join(letters[side] for name, side in asked if name == workload.name) == expected
        assert used_s[workload.name][HEAD] == {"brokers": 1.0 * TURNS, "caller": 0.5 * TURNS}
    assert order(number)[0] == {"A": BASE, "B": HEAD}[expected[0]]


def measured(
    measure: Callable[[int], Pair],
    *,
    pair_s: float = 0.0,
    within_s: float = math.inf,
    to_the_end: bool = False,
) -> Run:
    """Run the check with pairs that take ``pair_s`` each."""
    now_s = [0.0]

    def timed(number: int) -> Pair:
        now_s[0] += pair_s
        return measure(number)

    run = Run(limit=LIMIT)
    for _ in measure_until_sure(
        run,
        timed,
        pairs=6,
        pairs_max=PAIRS_MAX,
        within_s=within_s,
        clock=lambda: now_s[0],
        to_the_end=to_the_end,
    ):
        pass
    return run


def unsure(number: int) -> Pair:
    """Pairs that never allow a verdict."""
    return pair((0.9, 1.34, 1.05, 1.15)[number % 4])


def test_a_certain_verdict_ends_the_check_and_an_unsure_one_asks_for_more_pairs() -> None:
    assert len(measured(lambda _: pair(1.0)).pairs) == 6
    assert len(measured(lambda _: pair(1.3)).pairs) == 6
    undecided = measured(unsure)
    assert len(undecided.pairs) == PAIRS_MAX
    assert undecided.verdict is Verdict.UNSURE
    assert len(measured(lambda _: pair(1.0), to_the_end=True).pairs) == PAIRS_MAX


def test_a_pair_that_would_end_too_late_is_not_begun() -> None:
    run = measured(unsure, pair_s=40, within_s=360)

    assert len(run.pairs) == 9
    assert run.ended == "6 minutes are over"
    assert len(measured(unsure, pair_s=500, within_s=360).pairs) == 1


def concluded(run: Run) -> tuple[int, str]:
    """Return the exit code and the output."""
    text = io.StringIO()
    return conclude(Console(file=text, width=150), run), text.getvalue()


def test_only_a_slower_head_fails_and_the_output_says_what_is_slower() -> None:
    passed = concluded(measured(lambda _: pair(1.0)))
    undecided = concluded(measured(unsure))
    slower = concluded(measured(lambda _: pair(1.0, drain=1.3)))

    assert passed == (0, "passed: not slower by more than 10 %\n")
    assert undecided[0] == 0
    assert undecided[1].startswith("warning: unsure whether slower by more than 10 %: lone 1.1")
    assert slower == (
        EXIT_SLOWER,
        "error: slower by more than 10 %: drain 1.30 times (1.300 to 1.300)\n",
    )


def test_on_github_a_warning_is_shown_beside_the_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")

    conclude(Console(file=io.StringIO()), measured(unsure))

    assert capsys.readouterr().out.startswith("::warning title=processor time a task::unsure")


def test_the_table_and_the_json_show_both_sides_the_ratio_and_its_interval(tmp_path: Path) -> None:
    run = measured(lambda _: pair(1.0, lone=1.3))
    text = io.StringIO()

    print_table(Console(file=text, width=150), {"date": "today"}, run)
    write_json(tmp_path / "found.json", {"date": "today"}, run, None)

    assert "date: today" in text.getvalue()
    (lone,) = (line for line in text.getvalue().splitlines() if "a lone task" in line)
    for shown in ("3.333 ms", "4.333 ms", "1.300", "slower", "brokers 1.30, worker 1.30"):
        assert shown in lone
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["verdict"] == "slower"
    assert written["workloads"]["lone"]["low"] == pytest.approx(1.3)
    assert written["workloads"]["drain"]["verdict"] == "passed"
    assert len(written["pairs"]) == 6


def test_processes_that_hardly_do_anything_are_not_shown() -> None:
    used = {BASE: {"brokers": 1.0, "worker": 0.001}, HEAD: {"brokers": 1.1, "worker": 0.005}}
    each = Pair(first=BASE, used_s={work.name: used for work in WORKLOADS}, others=0.0)

    assert Run(limit=LIMIT, pairs=[each]).by_group(WORKLOADS[0]) == {"brokers": 1.1}


def test_a_run_with_too_few_pairs_is_written_too(tmp_path: Path) -> None:
    run = measured(unsure, pair_s=500, within_s=360)

    write_json(tmp_path / "found.json", {}, run, {1.0: {Verdict.PASSED: 1.0}})

    written = json.loads((tmp_path / "found.json").read_text())
    assert written["workloads"]["lone"]["low"] is None
    assert written["replayed"] == {"1": {"passed": 1.0}}


def test_the_processor_time_of_a_process_includes_threads_that_have_ended() -> None:
    def burn() -> None:
        until_s = time.thread_time() + 0.02
        while time.thread_time() < until_s:
            pass

    before_s = driver.cpu_s(os.getpid())
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()

    low_s = time.process_time()
    found_s = driver.cpu_s(os.getpid())
    assert low_s <= found_s <= time.process_time()
    assert found_s - before_s >= 0.02


@pytest.mark.slow
def test_a_driver_that_imports_other_packages_than_its_checkouts_measures_nothing(
    tmp_path: Path,
) -> None:
    given = ["--checkout", str(tmp_path), "--folder", str(tmp_path), "--addresses", ""]
    environment = {**os.environ, "PYTHONPATH": str(HEAD_ROOT)}

    ended = subprocess.run(
        [sys.executable, "-P", str(DRIVER), *given],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert f"tq is not that of {tmp_path}" in ended.stderr


async def test_a_side_that_does_not_start_shows_what_it_wrote(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no module named lmdb >&2\nexit 3\n")
    python.chmod(0o755)
    software = Software(root=tmp_path, python=python, commit="1234567890ab", subject="a change")

    async with Side(BASE, software, tmp_path / BASE) as side:
        with pytest.raises(SideError) as raised:
            await side.ready()

    assert str(raised.value).startswith("the base, 1234567890 a change, ended")
    assert "no module named lmdb" in str(raised.value)


WORKS = "pass\n"
FAILS = "import sys\nsys.exit('proto/queue.proto: syntax error')\n"
HANGS = "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(1000)\n"


def git(folder: Path, *arguments: str) -> str:
    """Run git as an author that needs no settings."""
    author = ("-c", "user.name=ann", "-c", "user.email=ann@example.com")
    command = ["git", *author, *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, files: dict[str, str]) -> str:
    """Commit files; return the commit."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "a change")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, which keeps its temporary files beside it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, {"scripts/generate_protos.py": WORKS, "requirements-dev.lock": "grpcio==1\n"})
    return folder


def leftovers(repository: Path) -> list[str]:
    """List the temporary folders, and the worktrees besides the repository itself."""
    worktrees = git(repository, "worktree", "list", "--porcelain").count("worktree ") - 1
    scratch = sorted(path.name for path in (repository.parent / "scratch").iterdir())
    return [*scratch, *["a worktree"] * worktrees]


def test_the_base_is_where_the_branch_left_main_and_on_main_the_commit_before(
    repository: Path,
) -> None:
    left = commit(repository, {})
    git(repository, "checkout", "-q", "-b", "feature")
    own = commit(repository, {})
    git(repository, "checkout", "-q", "main")
    last = commit(repository, {})

    assert base_commit(None, repository) == left
    assert base_commit("feature", repository) == own
    git(repository, "checkout", "-q", "feature")
    assert base_commit(None, repository) == left
    git(repository, "update-ref", "refs/remotes/origin/main", last)
    git(repository, "branch", "-q", "-D", "main")
    assert base_commit(None, repository) == left
    with pytest.raises(SoftwareError, match="there is no commit nonsense"):
        base_commit("nonsense", repository)


def test_a_base_with_the_same_lock_file_shares_the_environment_and_leaves_nothing(
    repository: Path,
) -> None:
    base = git(repository, "rev-parse", "HEAD")
    (repository / "file").write_text("not committed\n")
    git(repository, "add", "file")
    head = head_software(repository)

    with base_software(base, head) as software:
        assert (software.root / "scripts/generate_protos.py").read_text() == WORKS
        assert not (software.root / "file").exists()
        assert software.python == head.python == Path(sys.executable)
        assert software.environment["PYTHONPATH"] == str(software.root)

    assert "not committed" in head.title
    assert leftovers(repository) == []


def test_a_base_with_another_lock_file_gets_an_environment_of_its_own(repository: Path) -> None:
    setup = "setup:\n\ttest -x $(PYTHON)\n\ttouch was-set-up\n"
    base = commit(repository, {"requirements-dev.lock": "grpcio==0\n", "Makefile": setup})
    commit(repository, {"requirements-dev.lock": "grpcio==1\n"})

    with base_software(base, head_software(repository)) as software:
        assert software.python == software.root / ".venv/bin/python"
        assert (software.root / "was-set-up").exists()

    assert leftovers(repository) == []


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"scripts/generate_protos.py": FAILS}, "syntax error"),
        (
            {"requirements-dev.lock": "x==0\n", "Makefile": "setup:\n\t@echo no x; exit 1\n"},
            "cannot be set up (exit code 2)\nno x",
        ),
    ],
)
def test_a_base_that_cannot_be_built_is_named_with_the_reason_and_leaves_nothing(
    repository: Path, files: dict[str, str], says: str
) -> None:
    good = {"scripts/generate_protos.py": WORKS, "requirements-dev.lock": "grpcio==1\n"}
    base = commit(repository, files)
    commit(repository, good)

    with (
        pytest.raises(SoftwareError) as raised,
        base_software(base, head_software(repository)),
    ):
        pytest.fail("this base cannot be built")

    assert base[:10] in str(raised.value)
    assert says in str(raised.value)
    assert leftovers(repository) == []


def test_a_worktree_that_git_had_only_half_made_is_forgotten(repository: Path) -> None:
    base = git(repository, "rev-parse", "HEAD")
    head = head_software(repository)
    hooks = repository / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "post-checkout").write_text("#!/bin/sh\nrm -f .git\nexit 1\n")
    (hooks / "post-checkout").chmod(0o755)

    with (
        pytest.raises(SoftwareError, match="git worktree failed"),
        base_software(base, head),
    ):
        pytest.fail("there is no worktree")

    assert leftovers(repository) == []


PROGRAM = """
import pathlib, sys, time
from benchmarks.regression.software import base_software, head_software
from chaos.interrupts import end_in_order
end_in_order()
head = head_software(pathlib.Path(sys.argv[1]))
with base_software(sys.argv[2], head) as base:
    (base.root / "begun").touch()
    time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("generator", [WORKS, HANGS], ids=["measuring", "building"])
def test_an_interrupt_leaves_no_worktree(
    repository: Path, generator: str, number: signal.Signals
) -> None:
    base = commit(repository, {"scripts/generate_protos.py": generator})
    commit(repository, {"scripts/generate_protos.py": WORKS})
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(repository), base],
        cwd=HEAD_ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not list((repository.parent / "scratch").glob("*/base/begun")):
            assert process.poll() is None, "it ended before it was interrupted"
            assert time.monotonic() < deadline_s, leftovers(repository)
            time.sleep(0.02)

        process.send_signal(number)

        assert process.wait(PATIENCE_S) != 0
    finally:
        process.kill()
        process.wait()
    assert leftovers(repository) == []


def test_pull_requests_are_compared_with_the_branch_that_they_are_for() -> None:
    workflow: dict[str, Any] = yaml.safe_load((HEAD_ROOT / ".github/workflows/ci.yml").read_text())

    job = workflow["jobs"]["regression"]
    checkout, *_, run, _ = job["steps"]

    assert job["if"] == "github.event_name == 'pull_request'"
    assert checkout["with"]["fetch-depth"] == 0
    assert "git merge-base HEAD" in run["run"]
    assert run["env"] == {"TARGET": "${{ github.base_ref }}"}
    assert "regression" not in (HEAD_ROOT / ".ci/run").read_text()
