"""The rules around PySyncObj, each with the scenario that shows its purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tests.raft import scenarios, stock_scenarios


class Scenario(Protocol):
    """Plays with or without the rule; returns what went wrong, "" for nothing."""

    def __call__(self, *, with_rule: bool) -> str: ...


@dataclass(frozen=True)
class Rule:
    """A rule, its test in test_rules.py, and the scenario that both play."""

    name: str
    test: str
    scenario: Scenario


RULES = (
    Rule("R1", "an_ack_of_an_earlier_reign_counts", scenarios.an_ack_of_an_earlier_reign),
    Rule("R1", "a_vote_counts_twice", scenarios.one_voter_votes_twice),
    Rule("R2", "a_resend_erases_acknowledged_entries", scenarios.an_append_is_resent),
    Rule("R3", "what_is_on_its_way_is_sent_again", scenarios.acks_while_more_is_on_its_way),
    Rule(
        "R4",
        "a_power_cut_loses_an_acknowledged_entry",
        scenarios.a_power_cut_after_an_acknowledgement,
    ),
    Rule("R5", "a_piece_of_a_snapshot_commits_a_lost_tail", scenarios.a_snapshot_begins_to_arrive),
    Rule("R6", "a_late_snapshot_erases_acknowledged_entries", scenarios.a_late_snapshot),
    Rule("R7", "a_caller_is_told_anothers_result", stock_scenarios.a_follower_is_asked),
    Rule(
        "R8", "a_node_that_comes_back_deposes_the_leader", scenarios.a_node_was_cut_off_for_a_while
    ),
    Rule("R9", "a_poison_entry_is_applied_for_ever", stock_scenarios.an_entry_cannot_be_applied),
    Rule(
        "R10",
        "a_crash_after_a_dump_erases_the_journal",
        stock_scenarios.a_crash_between_state_and_journal,
    ),
    Rule("R11", "a_divergent_tail_is_searched_step_by_step", scenarios.a_long_divergent_tail),
    Rule("R12", "a_large_entry_breaks_the_follower", stock_scenarios.a_large_entry),
    Rule("R13", "a_leader_that_woke_up_serves_a_stale_read", scenarios.a_leader_wakes_up),
)
