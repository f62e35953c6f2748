"""The plots: what is computed under offered load, what is drawn, and what is kept beside it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from benchmarks.plot import Axis, Limit, Line, Panel, picture
from benchmarks.plots import __main__ as command
from benchmarks.plots import depth, outages, throughput
from benchmarks.plots.load import Limits, Step, climb, offer, overload
from benchmarks.plots.sizes import DEEP, Sizes
from tests.patience import PATIENCE_S
from tests.simulation.world.virtual_loop import VirtualLoop
from tq_client import TqError

ROOT = Path(__file__).resolve().parents[2]
FACTS = ["a fast machine", "2026-11-22, python -m benchmarks.plots"]
T = TypeVar("T")


@pytest.fixture
def virtual() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine on virtual time, so that latencies are exact."""

    def run(main: Coroutine[Any, Any, T]) -> T:
        loop = VirtualLoop()
        try:
            return loop.run(main)
        finally:
            loop.close()

    return run


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def idle() -> None:
    """Nothing to settle."""


def step(offered_per_s: float, **changed: float | str) -> Step:
    """A step that the queue kept up with, but for what is said."""
    kept_up = Step(
        offered_per_s=offered_per_s,
        achieved_per_s=offered_per_s,
        p50_ms=3.0,
        p99_ms=9.0,
        worst_ms=12.0,
        late_p99_ms=1.0,
        counted=1_000,
        failed=0,
        unfinished=0,
        cut_short="",
    )
    return replace(kept_up, **changed)  # type: ignore[arg-type]  # each as its field


def test_a_server_that_keeps_up_has_its_own_latency_and_the_whole_rate(virtual: Run) -> None:
    found = virtual(offer(lambda: asyncio.sleep(0.005), 100, Limits(seconds=20)))

    assert found.p50_ms == pytest.approx(5)
    assert found.worst_ms == pytest.approx(5)
    assert found.achieved_per_s == pytest.approx(100, rel=0.01)
    assert (found.failed, found.unfinished, found.cut_short) == (0, 0, "")
    assert overload(found) is None


def test_calls_that_begin_while_the_server_stalls_wait_from_their_intended_start(
    virtual: Run,
) -> None:
    async def main() -> Step:
        begun_s = now_s()

        async def call() -> None:
            """Answer in 5 ms, but not between the fifth and the sixth second."""
            if 5 <= now_s() - begun_s < 6:
                await asyncio.sleep(begun_s + 6 - now_s())
            await asyncio.sleep(0.005)

        return await offer(call, 100, Limits(seconds=10, warm_up=0))

    found = virtual(main())

    # A tenth of all calls were due in the stalled second, at evenly spaced times. A caller that
    # waits for each answer would have seen one slow call, and a p99 of 5 ms.
    assert found.p50_ms == pytest.approx(5)
    assert found.p99_ms == pytest.approx(905, abs=11)
    assert found.worst_ms == pytest.approx(1_005, abs=11)


def test_calls_that_this_process_begins_late_count_from_their_intended_start(
    virtual: Run,
) -> None:
    async def main() -> Step:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        # The whole process is stopped for a second.
        loop.call_later(5, loop.select, 1.0)
        return await offer(lambda: asyncio.sleep(0.005), 100, Limits(seconds=10, warm_up=0))

    found = virtual(main())

    assert found.p50_ms == pytest.approx(5)
    assert found.p99_ms == pytest.approx(905, abs=25)
    assert found.late_p99_ms == pytest.approx(900, abs=25)


def test_a_call_that_never_ends_counts_until_the_end_of_the_step(virtual: Run) -> None:
    async def main() -> Step:
        return await offer(lambda: asyncio.sleep(1e9), 100, Limits(seconds=10, drain_s=5))

    found = virtual(main())

    assert found.unfinished == 1_000
    assert found.achieved_per_s == 0
    assert found.p50_ms > 5_000
    assert overload(found) == "at 100/s offered 0/s were achieved"


def test_a_refused_call_is_no_fast_call(virtual: Run) -> None:
    async def call() -> None:
        raise TqError("busy")

    found = virtual(offer(call, 100, Limits(seconds=10)))

    assert found.failed == 1_000
    assert found.achieved_per_s == 0
    assert found.p50_ms > 1_000


def test_an_error_that_is_no_answer_of_the_queue_ends_the_measurement(virtual: Run) -> None:
    async def call() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        virtual(offer(call, 100, Limits(seconds=10)))


def test_a_step_ends_once_too_many_calls_wait(virtual: Run) -> None:
    limits = Limits(seconds=10, in_flight_max=250, drain_s=1)

    found = virtual(offer(lambda: asyncio.sleep(1e9), 100, limits))

    assert found.unfinished == 250
    assert overload(found) == "at 100/s offered 250 calls waited"


def test_a_step_ends_if_this_process_cannot_begin_so_many_calls(virtual: Run) -> None:
    async def main() -> tuple[Step, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        async def call() -> None:
            """Keep this process busy for 20 ms, with 10 ms between two calls."""
            loop.select(0.02)

        begun_s = loop.time()
        return await offer(call, 100, Limits(seconds=100)), loop.time() - begun_s

    found, took_s = virtual(main())

    # It falls behind by 10 ms with each call, so it is 2 s late after 200 of them.
    assert overload(found) == "at 100/s offered calls began 2 s late"
    assert 3 < took_s < 9


def test_a_step_has_a_bound_in_time_and_in_calls() -> None:
    limits = Limits(seconds=10, calls_min=1_000, calls_max=100_000)

    assert limits.calls(50) == 1_000
    assert limits.calls(500) == 5_000
    assert limits.calls(50_000) == 100_000
    assert Limits(calls_min=1_000, calls_max=10).calls(1) == 10


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (step(1_000), None),
        (step(1_000, achieved_per_s=901), None),
        (step(1_000, achieved_per_s=899), "at 1,000/s offered 899/s were achieved"),
        (step(1_000, p99_ms=1_000), None),
        (step(1_000, p99_ms=1_200), "at 1,000/s offered the p99 was 1.2 s"),
        (step(1_000, cut_short="9 calls waited"), "at 1,000/s offered 9 calls waited"),
    ],
)
def test_no_higher_rate_is_offered_once_the_queue_does_not_keep_up(
    found: Step, reason: str | None
) -> None:
    assert overload(found) == reason


def climbed(
    rates: list[float], capacity: float, until_s: float
) -> Coroutine[Any, Any, tuple[str, list[Step]]]:
    """Climb on a server that answers so many calls a second, one after the other."""

    async def main() -> tuple[str, list[Step]]:
        free_s = 0.0
        steps: list[Step] = []

        async def call() -> None:
            nonlocal free_s
            free_s = max(free_s, now_s()) + 1 / capacity
            await asyncio.sleep(free_s - now_s())

        reason = await climb(
            call,
            rates,
            Limits(seconds=10),
            until_s=until_s,
            found=steps.append,
            settle=lambda: asyncio.sleep(100),
        )
        return reason, steps

    return main()


def test_the_climb_ends_at_the_first_rate_above_the_capacity(virtual: Run) -> None:
    reason, steps = virtual(climbed([50, 100, 200, 500], capacity=150, until_s=1e9))

    assert [each.offered_per_s for each in steps] == [50, 100, 200]
    assert reason == "at 200/s offered 150/s were achieved"


def test_the_climb_ends_after_its_last_rate_or_its_time(virtual: Run) -> None:
    reason, steps = virtual(climbed([50, 100], capacity=1_000, until_s=1e9))
    late_reason, late_steps = virtual(climbed([50, 100], capacity=1_000, until_s=60))

    assert (len(steps), reason) == (2, "the queue kept up with every rate")
    assert (len(late_steps), late_reason) == (1, "there was no time left for 100/s")


def test_the_distribution_rises_at_each_value_by_its_share() -> None:
    assert outages.ecdf([30.0, 10.0, 20.0, 20.0]) == [
        (10, 0),
        (10, 25),
        (20, 25),
        (20, 50),
        (20, 50),
        (20, 75),
        (30, 75),
        (30, 100),
    ]


def texts(svg: str) -> list[str]:
    """Every text of a picture."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_panel_has_a_title_labelled_axes_ticks_and_a_legend() -> None:
    panel = Panel(
        title="a < b",
        x=Axis(label="rate, tasks/s", log=True),
        y=Axis(label="latency, ms"),
        lines=[Line(label="p50", points=[(50, 3.0), (4_000, 12.0)])],
        limits=[Limit(label="too slow", y=50.0), Limit(label="here", x=100.0)],
    )

    svg = picture("all of it", ["a note"], [panel])

    assert {"all of it", "a note", "a &lt; b", "p50", "too slow", "here"} <= set(texts(svg))
    assert {"rate, tasks/s, log scale", "latency, ms"} <= set(texts(svg))
    assert {"50", "100", "1,000", "5,000", "0", "10"} <= set(texts(svg))
    assert svg.count("<polyline ") == 1
    assert svg.count("<circle ") == 2


def test_a_picture_is_readable_on_a_light_and_on_a_dark_screen() -> None:
    svg = picture("t", [], [])

    light, dark = svg.split("@media (prefers-color-scheme:dark)")
    assert ".paper{fill:#ffffff}.ink{fill:#1a1a1a}" in light
    assert ".paper{fill:#15181d}.ink{fill:#ececec}" in dark
    assert '<rect class="paper"' in svg


def test_a_long_note_is_wrapped_inside_the_picture() -> None:
    found = texts(picture("t", ["word " * 100], []))

    assert len(found) > 3
    assert max(map(len, found)) <= 120


@pytest.mark.parametrize("values", [[0.0], [1e-3, 1.0], [7.0, 7.0], [3.0, 2e7], []])
@pytest.mark.parametrize("log", [True, False])
def test_any_values_have_an_axis_with_a_few_ticks(values: list[float], log: bool) -> None:
    line = Line(label="l", points=[(value, value) for value in values])
    axis = Axis(label="a", log=log)

    svg = picture("t", [], [Panel(title="p", x=axis, y=axis, lines=[line])])

    assert 4 <= svg.count('<path class="grid"') <= 26
    assert "nan" not in svg


def a_throughput() -> throughput.Throughput:
    return throughput.Throughput(
        climbs={
            "submit": throughput.Climb(
                steps=[step(50), step(100, p99_ms=2_000)],
                stopped="at 100/s offered the p99 was 2.0 s",
            ),
            "submit to done": throughput.Climb(steps=[step(50)], stopped="interrupted"),
        }
    )


def some_depths() -> depth.Depths:
    cost = depth.Cost(p50_ms=3.0, p99_ms=6.0, leader_cpu_ms=1.5, calls=500)
    return depth.Depths(
        depths=[
            depth.Depth(
                pending=pending,
                submit=cost,
                claim=cost,
                leader_idle_cores=0.01,
                leader_memory_mb=60.0,
                followers_memory_mb=[50.0, 55.0],
                state_mb=100.0,
                fill_per_s=10_000,
            )
            for pending in (1_000, 10_000_000)
        ],
        stopped="complete",
    )


def test_the_plot_of_throughput_names_its_lines_its_limit_and_why_they_end() -> None:
    found = texts(throughput.draw(a_throughput(), FACTS))

    said = " ".join(found)
    assert {"submit, p50", "submit, p99", "submit to done, p50", "submit to done, p99"} <= set(
        found
    )
    assert {"achieved rate, tasks/s, log scale", "latency, ms, log scale", *FACTS} <= set(found)
    assert "submit: at 100/s offered the p99 was 2.0 s; submit to done: interrupted" in said


def test_the_plot_of_depth_shows_time_processor_time_and_memory() -> None:
    found = set(texts(depth.draw(some_depths(), FACTS)))

    assert {"latency, ms", "processor time, ms", "memory, MB", "10,000,000", *FACTS} <= found
    assert {"claim, p99", "submit", "claim", "leader", "larger follower"} <= found


def test_the_plot_of_outages_marks_the_median_and_the_p99() -> None:
    measured = outages.Outages(wanted=100, ms=[float(value) for value in range(1, 101)])

    found = set(texts(outages.draw(measured, FACTS)))

    assert {"median 50 ms", "p99 99 ms", "write outage, ms", *FACTS} <= found
    assert "Write outages over 100 leader kills" in found


def test_a_plot_of_few_outages_says_that_its_p99_is_the_worst_and_that_it_is_not_complete() -> None:
    said = " ".join(texts(outages.draw(outages.Outages(wanted=20, ms=[70.0, 90.0]), FACTS)))

    assert "the p99 is the worst" in said
    assert "Not complete: 20 kills were asked for." in said


def test_tasks_that_the_disk_has_no_room_for_are_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    sizes = Sizes(depths=[10**15])

    with pytest.raises(depth.NoRoomError, match="choose another folder with --data-dir"):
        asyncio.run(depth.measure(sizes, tmp_path, depth.Depths()))


def test_what_was_complete_is_kept_and_drawn_if_a_measurement_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def measure(sizes: Sizes, data_dir: Path | None, found: outages.Outages) -> None:
        found.wanted = sizes.kills
        found.ms.append(70.0)
        raise TimeoutError("no leader")

    broken = replace(command.PLOTS["outage"], measure=measure)
    monkeypatch.setattr(command, "PLOTS", {"outage": broken})

    with pytest.raises(SystemExit, match="outage: TimeoutError: no leader"):
        command.main(["--out", str(tmp_path), "--kills", "3", "outage"])

    kept = json.loads((tmp_path / "outage.json").read_text())
    assert kept["measured"] == {"wanted": 3, "ms": [70.0]}
    assert kept["machine"]["command"] == "python -m benchmarks.plots outage --kills 3"
    assert "NOT COMPLETE: TimeoutError: no leader" in texts((tmp_path / "outage.svg").read_text())


def test_nothing_is_written_if_nothing_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def measure(*_: object) -> None:
        raise KeyboardInterrupt

    broken = replace(command.PLOTS["depth"], measure=measure)
    monkeypatch.setattr(command, "PLOTS", {"depth": broken})

    with pytest.raises(SystemExit) as ended:
        command.main(["--out", str(tmp_path)])

    assert ended.value.code == 130
    assert list(tmp_path.iterdir()) == []


def test_the_depth_of_ten_million_is_measured_only_if_asked_for() -> None:
    parser = command._parser()

    usual = command._sizes(parser.parse_args(["--out", "x"]))
    deep = command._sizes(parser.parse_args(["--out", "x", "--deep"]))

    assert max(usual.depths) == 1_000_000
    assert max(deep.depths) == DEEP
    assert deep.minutes > usual.minutes


def test_numbers_that_cannot_be_drawn_again_are_named(tmp_path: Path) -> None:
    (tmp_path / "depth.json").write_text('{"machine": {}, "measured": {"depths": 7}}')

    with pytest.raises(SystemExit) as ended:
        command.main(["--out", str(tmp_path), "--redraw", "depth", "outage"])

    assert "depth.json has other fields than this version writes" in str(ended.value.code)
    assert f"outage: there is no {tmp_path / 'outage.json'}" in str(ended.value.code)


def test_labels_that_would_touch_are_left_out() -> None:
    points = [(10.0**power, 1.0) for power in range(3, 8)]
    panel = Panel(
        title="p",
        x=Axis(label="x", log=True),
        y=Axis(label="y"),
        lines=[Line(label="l", points=points)],
    )

    found = texts(picture("t", [], [panel]))

    assert {"1,000", "10,000", "100,000", "1,000,000", "10,000,000"} <= set(found)
    assert "2,000,000" not in found


@pytest.mark.cluster
@pytest.mark.slow
def test_the_command_writes_three_plots_and_their_numbers_and_draws_them_again(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    given = [sys.executable, "-m", "benchmarks.plots", "--out", str(out)]
    sizes = [
        *("--rates", "20,40", "--seconds", "1", "--tasks", "20"),
        *("--depths", "1000,2000", "--calls", "20", "--kills", "1", "--data-dir", str(tmp_path)),
    ]

    answers = [
        subprocess.run(
            [*given, *options],
            cwd=ROOT,
            env=os.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=4 * PATIENCE_S,
        )
        for options in (sizes, ["--redraw"])
    ]

    assert [each.returncode for each in answers] == [0, 0], "\n".join(
        each.stdout[-2_000:] + each.stderr[-2_000:] for each in answers
    )
    names = {path.name for path in out.iterdir()}
    assert names == {f"{plot}.{kind}" for plot in command.PLOTS for kind in ("svg", "json")}
    rates, depths, kills = (
        json.loads((out / f"{name}.json").read_text())["measured"] for name in command.PLOTS
    )
    assert all(each["steps"][0]["counted"] > 0 for each in rates["climbs"].values())
    assert [each["pending"] for each in depths["depths"]] == [1_000, 2_000]
    assert all(each["claim"]["leader_cpu_ms"] > 0 for each in depths["depths"])
    assert len(kills["ms"]) == 1
    assert list(tmp_path.glob("tq-*")) == []
