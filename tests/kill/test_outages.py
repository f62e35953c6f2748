"""How long writes were out is read off the ledger."""

from __future__ import annotations

from chaos.history.outages import Outage, longest_silence, outage, summary
from tests.kill.story import Story


def test_an_outage_lasts_until_a_write_sent_after_the_fault_is_acknowledged() -> None:
    story = Story()
    story.submit((0.0, 0.1), "before", request="r1")
    story.submit((0.9, 1.2), "under way", request="r2")
    story.submit((1.1, None), request="r3")
    story.submit((1.3, 1.5), "after", request="r4")

    assert outage(story.ledger, 1.0) == Outage(1.0, 1.5)


def test_an_outage_that_lasts_has_no_length_yet() -> None:
    story = Story()
    story.submit((0.9, 1.2), "under way")
    story.refuse_submit((1.1, 1.3), request="r2")

    assert outage(story.ledger, 1.0) is None


def test_outages_are_told_by_their_median_and_their_worst() -> None:
    outages = [Outage(0, 0.1), Outage(0, 0.4), Outage(0, 0.2)]

    assert summary(outages) == "3 write outages: median 200 ms, worst 400 ms (100, 400, 200)"


def test_a_silence_lasts_until_any_write_sent_meanwhile_is_acknowledged() -> None:
    story = Story()
    story.submit((0.0, 0.1), "before", request="r1")
    story.submit((1.0, None), request="r2")
    story.submit((2.5, 3.0), "after", request="r3")
    story.submit((3.1, 3.2), "late", request="r4")

    assert longest_silence(story.ledger, 0.5, 4.0) == 2.0


def test_a_silence_that_lasts_is_counted_up_to_the_present() -> None:
    story = Story()
    story.submit((1.0, 1.1), "before", request="r1")
    story.submit((2.0, None), request="r2")

    assert longest_silence(story.ledger, 0.5, 4.0) == 2.0
