"""The report of a run stands alone, tells the truth, and can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chaos.context import Happening
from chaos.history.violation import Violation
from chaos.nemeses.nemesis import Transport
from chaos.report import page, plot
from chaos.report.figures import around, percentile
from chaos.run.result import Result, Verdict
from chaos.run.run import Plan, Played
from chaos.run.watch import Sight, elections
from chaos.run_scenario import tell_violation
from chaos.scenario import Scenario
from tests.kill.story import Story, one_task_done

SCENARIO = Scenario(name="shaken", summary="a building <falls>", nemeses=())


def played_of(story: Story, *happenings: Happening) -> Played:
    return Played(
        plan=Plan(scenario=SCENARIO, seed=77, duration_s=5, transport=Transport.PROCESSES),
        ledger=story.ledger,
        happenings=list(happenings),
        sights={
            "n1": [Sight(0.0, "LEADER", 3), Sight(4.0, "down"), Sight(6.0, "no answer: X")],
            "n2": [Sight(0.0, "FOLLOWER", 3), Sight(5.0, "LEADER", 4)],
        },
        violations=[],
        injected={},
        not_injected={},
        outages=[],
        took_s=9,
    )


def result_of(verdict: Verdict, *violations: str) -> Result:
    return Result(
        scenario="shaken",
        transport="processes",
        seed=77,
        faults=["F1"],
        verdict=verdict,
        violations=list(violations),
        command="python -m chaos run --scenario shaken --seed 77",
    )


def killed(name: str, began_s: float, ended_s: float, *nodes: str) -> Happening:
    return Happening(name=name, what="killed", nodes=nodes, began_s=began_s, ended_s=ended_s)


def test_a_report_needs_nothing_from_outside() -> None:
    fault = killed("kill-leader", 4.0, 6.0, "n1")

    text = page.page(played_of(one_task_done(), fault), result_of(Verdict.KEPT))

    assert not re.search(r"(src|href)=|url\(|@import|https?://|<script", text)
    assert "a building &lt;falls&gt;" in text


def test_a_report_names_the_seed_the_command_the_fault_and_the_verdict() -> None:
    fault = killed("kill-leader", 4.0, 6.0, "n1")

    text = page.page(played_of(one_task_done(), fault), result_of(Verdict.KEPT))

    assert "seed 77" in text
    assert "python -m chaos run --scenario shaken --seed 77" in text
    assert "kill-leader: killed n1" in text
    assert "Every promise was kept" in text
    assert "term 4" in text


def test_a_broken_promise_is_shown_with_the_calls_that_led_to_it() -> None:
    story = one_task_done()
    violation = tell_violation(story.ledger, Violation("I4", "task t: was completed twice", "t"))

    text = page.page(played_of(story), result_of(Verdict.BROKEN, violation))

    assert "A promise was broken" in text
    assert "I4: task t: was completed twice" in text
    assert "w1: claim claim-7: token 7" in text
    assert text.count('<span class="verdict bad">broken</span>') == 1


def test_a_failed_suite_judges_nothing() -> None:
    text = page.page(played_of(one_task_done()), result_of(Verdict.ERROR))

    assert "The suite itself failed" in text
    assert "not judged" in text
    assert ">kept<" not in text


def test_faults_at_the_same_time_are_drawn_apart() -> None:
    faults = [killed(f"kill-{number}", 4.0, 4.2, "n1", "n2") for number in range(3)]

    text = plot.timeline(played_of(one_task_done(), *faults))

    bars = re.findall(r'<rect class="fault" x="[\d.]+" y="(\d+)"', text)
    assert len(set(bars)) == 3


def test_calls_that_were_never_answered_lie_on_the_edge() -> None:
    story = one_task_done()
    story.submit((6, None), request="lost")

    text = plot.timeline(played_of(story))

    assert re.search(r'<path class="dot unknown" d="M[\d.]+ [\d.]+h0"/>', text)


def test_the_figures_around_a_fault_count_what_was_sent_in_each_stretch() -> None:
    story = Story()
    for number in range(10):
        at = 1.0 + number
        story.submit((at, at + 0.5), f"t{number}", request=f"r{number}")
    fault = killed("kill-leader", 4.5, 6.5, "n1")

    figures = around(story.ledger, fault)

    assert (figures.before.acknowledged, figures.during.acknowledged) == (2, 2)
    assert figures.after.per_s == pytest.approx(1.0)
    assert figures.during.p50_s == pytest.approx(0.5)
    assert figures.outage_s == pytest.approx(1.0)


@pytest.mark.parametrize(("percent", "value"), [(50, 2.0), (99, 4.0), (0, 1.0)])
def test_percentiles_are_values_that_were_seen(percent: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == value
    assert percentile([], percent) is None


def test_a_report_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "shaken.html"

    page.write(path, played_of(one_task_done()), result_of(Verdict.KEPT))

    assert path.read_text().startswith("<!doctype html>")


def test_an_election_that_no_fault_explains_is_counted() -> None:
    sights = {
        "n1": [Sight(0.0, "LEADER", 3), Sight(4.0, "FOLLOWER", 4), Sight(30.0, "LEADER", 5)],
        "n2": [Sight(0.0, "FOLLOWER", 3), Sight(4.1, "LEADER", 4), Sight(29.0, "FOLLOWER", 5)],
    }

    assert elections(sights) == [4.1, 30.0]


def test_a_history_with_several_faults_is_told_once() -> None:
    history = "    0.0 to 1.0  w1: claim"
    result = result_of(Verdict.BROKEN, f"I4: twice\n{history}", f"I5: other\n{history}", "I6: sum")

    text = page.page(played_of(one_task_done()), result)

    assert f"<pre>I4: twice\nI5: other\n{history}</pre>" in text
    assert "<pre>I6: sum</pre>" in text
