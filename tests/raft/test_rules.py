"""Each rule around PySyncObj holds a promise, and without it the promise is broken.

``python -m tests.raft.rules_off`` prints what is broken, as a table.
"""

from __future__ import annotations

import pytest

from tests.raft.rules import RULES, Rule


def shows_what_it_is_for(name: str, test: str) -> str:
    """Play the scenario with the rule, which must hold, and without; what went wrong then."""
    rule = next(rule for rule in RULES if (rule.name, rule.test) == (name, test))
    assert rule.scenario(with_rule=True) == ""
    return rule.scenario(with_rule=False)


def test_without_r1_an_ack_of_an_earlier_reign_counts() -> None:
    assert "only its leader holds it" in shows_what_it_is_for(
        "R1", "an_ack_of_an_earlier_reign_counts"
    )


def test_without_r1_a_vote_counts_twice() -> None:
    assert "counted twice" in shows_what_it_is_for("R1", "a_vote_counts_twice")


def test_without_r2_a_resend_erases_acknowledged_entries() -> None:
    assert "after a resend the log ends at 3" in shows_what_it_is_for(
        "R2", "a_resend_erases_acknowledged_entries"
    )


def test_without_r3_what_is_on_its_way_is_sent_again() -> None:
    assert "times over one connection" in shows_what_it_is_for(
        "R3", "what_is_on_its_way_is_sent_again"
    )


def test_without_r4_a_power_cut_loses_an_acknowledged_entry() -> None:
    assert "an acknowledged entry is lost" in shows_what_it_is_for(
        "R4", "a_power_cut_loses_an_acknowledged_entry"
    )


def test_without_r5_a_piece_of_a_snapshot_commits_a_lost_tail() -> None:
    assert "it applied b'never committed'" in shows_what_it_is_for(
        "R5", "a_piece_of_a_snapshot_commits_a_lost_tail"
    )


def test_without_r6_a_late_snapshot_erases_acknowledged_entries() -> None:
    assert "the log ends at 3" in shows_what_it_is_for(
        "R6", "a_late_snapshot_erases_acknowledged_entries"
    )


def test_without_r7_a_caller_is_told_anothers_result() -> None:
    assert "with the result b'first'" in shows_what_it_is_for(
        "R7", "a_caller_is_told_anothers_result"
    )


def test_without_r8_a_node_that_comes_back_deposes_the_leader() -> None:
    assert "a healthy leader was deposed" in shows_what_it_is_for(
        "R8", "a_node_that_comes_back_deposes_the_leader"
    )


def test_without_r9_a_poison_entry_is_applied_for_ever() -> None:
    assert "applied 5 times" in shows_what_it_is_for("R9", "a_poison_entry_is_applied_for_ever")


def test_without_r10_a_crash_after_a_dump_erases_the_journal() -> None:
    assert "the log now ends at 10" in shows_what_it_is_for(
        "R10", "a_crash_after_a_dump_erases_the_journal"
    )


def test_without_r11_a_divergent_tail_is_searched_step_by_step() -> None:
    assert "31 round trips" in shows_what_it_is_for(
        "R11", "a_divergent_tail_is_searched_step_by_step"
    )


def test_without_r12_a_large_entry_breaks_the_follower() -> None:
    assert "the follower raised" in shows_what_it_is_for("R12", "a_large_entry_breaks_the_follower")


def test_without_r13_a_leader_that_woke_up_serves_a_stale_read() -> None:
    assert "a stale read" in shows_what_it_is_for(
        "R13", "a_leader_that_woke_up_serves_a_stale_read"
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{rule.test}")
def test_every_rule_in_the_table_has_a_test_of_its_own(rule: Rule) -> None:
    assert f"test_without_{rule.name.lower()}_{rule.test}" in globals()
