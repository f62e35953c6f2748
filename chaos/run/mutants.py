"""A test of the suite: known bugs, planted in the brokers, and where each of them is caught.

The bugs are in ``tests/kill/mutant_broker.py``, an entry point of the tests: the product cannot be
configured to have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chaos.cluster.broker import NodeSetup

BUG_VARIABLE = "PLANTED_BUG"
LAUNCHER = ("-m", "tests.kill.mutant_broker")
SIMULATION = ("-m", "tests.simulation", "mutants", "--json")
"""The command that plants the bug named after it and prints which of the first seeds caught it."""
TRIES = 3
"""How many seeds of a scenario a bug may take to be caught."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted bug."""

    bug: str
    """Its name in the mutant broker."""
    fault: str
    """What a node with the bug does."""
    scenario: str = ""
    """The scenario that catches it. Empty: one of the first seeds of the simulation does; the bug
    shows so rarely that a scenario would take days."""
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def setup(self) -> NodeSetup:
        """How nodes with the bug are started."""
        return NodeSetup(
            launcher=LAUNCHER,
            environment={BUG_VARIABLE: self.bug, **dict(self.environment)},
        )


MUTANTS = (
    Mutant(bug="no fsync", fault="acknowledges what no disk holds", scenario="power-loss"),
    Mutant(
        bug="no token check",
        fault="records a report of a lease that is over",
        scenario="worker-sleeps",
    ),
    Mutant(
        bug="expiry by the wall clock",
        fault="ends leases when somebody sets the clock",
        scenario="clocks",
    ),
    Mutant(
        bug="a follower that claims",
        fault="a follower hands out what its own disk lists",
        scenario="kill",
    ),
    Mutant(
        bug="a forgotten request id",
        fault="a repeated call is carried out again",
        scenario="replies-lost",
    ),
    Mutant(
        bug="a snapshot without its index",
        fault="a snapshot claims entries that it lacks",
        scenario="replace-member",
        environment=(("SMALL_JOURNAL", "1"),),
    ),
    Mutant(
        bug="tokens that only count",
        fault="hands out again, after a recovery, what the lost cluster handed out",
        scenario="lost-majority",
    ),
    Mutant(
        bug="tokens by the clock alone",
        fault="the same, where clocks are behind",
        scenario="lost-majority-clocks",
    ),
    Mutant(
        bug="a recovery without quarantine",
        fault="runs again, without a word, what ran when the cluster was lost",
        scenario="lost-majority",
    ),
    Mutant(
        bug="a report that promises too much",
        fault="says that more is certain than is",
        scenario="lost-majority",
    ),
    Mutant(
        bug="a recovery of the first disk",
        fault="takes the disk that it is given first, not the one that has most",
        scenario="lost-majority-five",
    ),
    Mutant(
        bug="a recovery without the journal",
        fault="says that the journal's end is kept, and leaves it away",
        scenario="lost-majority",
    ),
    Mutant(
        bug="children not weighed",
        fault="decides what completions submit in one go, however much it is",
        scenario="abuse-storms",
    ),
    Mutant(
        bug="the quorum from the file",
        fault="counts a majority of those whom its file names",
        scenario="edited-files",
    ),
    Mutant(
        bug="a limit checked after use",
        fault="takes in every item of a request before it counts them",
        scenario="abuse-giants",
    ),
    Mutant(
        bug="truncation on overlap",
        fault="a follower throws away what it acknowledged when it is sent again",
    ),
    Mutant(
        bug="acks counted across terms",
        fault="a leader counts acknowledgements of an earlier leadership",
    ),
)


def by_name(bug: str) -> Mutant:
    """Find a bug by name; the KeyError lists the known names."""
    for mutant in MUTANTS:
        if mutant.bug == bug:
            return mutant
    raise KeyError(f"no bug {bug!r}; there are: {', '.join(names())}")


def names() -> Iterator[str]:
    """The names of the bugs."""
    return (mutant.bug for mutant in MUTANTS)
