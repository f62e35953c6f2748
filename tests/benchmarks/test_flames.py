"""Flame graphs: what is missing is said first, and files say process, workload and checkout."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import flames
from benchmarks.flames import Checkout, NeedsError, Recorder
from benchmarks.work import ROOT
from tests.benchmarks.test_plots import texts

FLAME = '<svg><text id="title" x="1">/usr/bin/py-spy record --pid 1</text></svg>'


def program(folder: Path, script: str) -> str:
    """Write a program that stands for py-spy; it is called as `record --pid PID --output FILE`."""
    path = folder / "py-spy"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def recorder(folder: Path, script: str) -> Recorder:
    return Recorder(program=program(folder, script), out=folder, seconds=2, rate=100)


@pytest.fixture
def without_py_spy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """py-spy is neither beside the interpreter nor on the path."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("without_py_spy")
def test_without_py_spy_the_command_says_how_to_install_it_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        flames.main(["--out", str(tmp_path / "out")])

    assert ended.value.code == 2
    assert f"{sys.executable} -m pip install py-spy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "said",
    ["Permission Denied: Try running again with elevated permissions", "Operation not permitted"],
)
def test_if_the_system_forbids_ptrace_the_command_says_how_to_allow_it_and_exits_with_2(
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refusing = program(tmp_path, f"echo '{said}' >&2; exit 1")
    monkeypatch.setattr(flames, "find_py_spy", lambda: refusing)

    with pytest.raises(SystemExit) as ended:
        flames.main(["--out", str(tmp_path / "out")])

    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "kernel.yama.ptrace_scope=0" in err
    assert "--cap-add SYS_PTRACE" in err


def test_another_fault_of_py_spy_is_shown_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(NeedsError, match="unsupported version"):
        flames.require_permission(program(tmp_path, "echo unsupported version >&2; exit 1"))


async def test_a_flame_graph_has_a_title_that_says_what_it_shows(tmp_path: Path) -> None:
    script = f"echo '{FLAME}' > \"$5\"; echo 'Samples: 342 Errors: 3'"

    found = await recorder(tmp_path, script).record(1, "lone-leader.svg", "leader; a & b")

    assert found == (342, 3)
    assert texts((tmp_path / "lone-leader.svg").read_text()) == ["leader; a &amp; b"]


async def test_an_idle_process_has_a_picture_that_says_so(tmp_path: Path) -> None:
    script = "echo 'Error: No stack counts found' >&2; exit 1"

    found = await recorder(tmp_path, script).record(1, "bulk-worker-child.svg", "worker-child")

    assert found == (0, 0)
    said = texts((tmp_path / "bulk-worker-child.svg").read_text())
    assert "worker-child" in said
    assert "No busy thread in 2 s at 100 samples/s: it was idle." in said


async def test_a_process_that_ends_meanwhile_is_an_error_with_the_words_of_py_spy(
    tmp_path: Path,
) -> None:
    failing = recorder(tmp_path, "echo no such process >&2; exit 1")

    with pytest.raises(NeedsError, match=r"lone-leader\.svg:\nno such process"):
        await failing.record(1, "lone-leader.svg", "leader")


def test_the_files_of_two_checkouts_are_side_by_side() -> None:
    names = [
        flames.file_name(workload, process, label)
        for workload in ("lone", "bulk")
        for process in ("leader", "worker-child")
        for label in ("before", "after")
    ]

    assert sorted(names)[:2] == ["bulk-leader.after.svg", "bulk-leader.before.svg"]
    assert flames.file_name("lone", "leader", "") == "lone-leader.svg"


def test_another_checkout_needs_an_environment_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(NeedsError, match="needs a checkout after `make setup`"):
        flames.checkouts(tmp_path)


def test_the_brokers_of_another_checkout_run_its_code_with_its_interpreter(
    tmp_path: Path,
) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    (tmp_path / "tq_cluster").mkdir()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/handlers.py").touch()

    before, after = flames.checkouts(tmp_path)

    assert (before.label, after.label) == ("before", "after")
    assert before.launcher[-2:] == (str(tmp_path), str(tmp_path / ".venv/bin/python"))
    assert after.launcher == ("-m", "tq_cluster")
    assert before.version() == "unknown commit"
    assert Checkout(folder=ROOT, python=sys.executable).version()


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("py-spy") is None, reason="py-spy is not installed")
def test_the_command_records_four_processes_under_a_workload(tmp_path: Path) -> None:
    flames.main(["--out", str(tmp_path / "out"), "--seconds", "1", "lone"])

    kept = json.loads((tmp_path / "out/flames.json").read_text())
    processes = [each["process"] for each in kept["flames"]]
    assert processes == ["leader", "follower", "worker-parent", "worker-child"]
    assert all((tmp_path / "out" / each["file"]).exists() for each in kept["flames"])
    assert kept["flames"][0]["samples"] > 0
