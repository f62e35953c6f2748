"""Planted bugs, which seeds must catch to be trusted. The product cannot have them."""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from tests.raft.modelled_disk import ModelledDisk
from tests.simulation.play.busy import busy_history
from tests.simulation.play.edited_files import edited_files_history
from tests.simulation.play.runs import protocol_history
from tests.simulation.play.stack import whole_stack_history
from tests.simulation.play.story import History, Story
from tests.simulation.world import host
from tests.simulation.world.broker import Broker
from tests.simulation.world.checker import Violation
from tq.internal.v1 import state_pb2
from tq.v1 import worker_service_pb2
from tq_cluster.core.calls import report as reports
from tq_cluster.core.decide import decide
from tq_cluster.core.kernel import request_ids
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import Claim, Replied
from tq_cluster.core.model.types import TaskNumber
from tq_cluster.core.reads import queries
from tq_cluster.raft import engine
from tq_cluster.raft.log_api import Role
from tq_cluster.raft.settings import RaftSettings, Rules
from tq_cluster.raft.snapshots import SnapshotReceiving
from tq_cluster.service.call import Call, Method
from tq_cluster.service.routing import Request

SEEDS_MAX = 200

Plant = Callable[[], AbstractContextManager[object]]


class Seeds(enum.StrEnum):
    """The kinds of seeds that can catch a bug."""

    PROTOCOL = "protocol seeds"
    WHOLE_STACK = "whole-stack seeds"
    EDITED_FILES = "edited-files seeds"
    BUSY = "busy seeds"
    """Nothing fails in these seeds, but everything is slow."""


@dataclass(frozen=True, slots=True)
class Caught:
    """A seed that caught a bug."""

    seed: int
    error: Exception

    @property
    def seeds(self) -> int:
        """The number of seeds until the bug was caught."""
        return self.seed + 1

    @property
    def broken(self) -> str:
        """The broken invariant; the error, if it is none of the checker's."""
        if isinstance(self.error, Violation) and self.error.invariant is not None:
            return self.error.invariant.value
        return type(self.error).__name__

    @property
    def shown(self) -> str:
        """The seed's failure, in a line."""
        return f"{self.broken}: {self.error}".splitlines()[0]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug, and which seeds are to catch it."""

    name: str
    plant: Plant = nullcontext
    rules: Rules = field(default_factory=Rules)
    seeds: Seeds = Seeds.PROTOCOL

    def history(self, seed: int) -> History:
        """Run a seed with the bug in every node."""
        settings = RaftSettings(rules=self.rules)
        with self.plant():
            match self.seeds:
                case Seeds.PROTOCOL:
                    return protocol_history(Story(seed), settings=settings)
                case Seeds.WHOLE_STACK:
                    return whole_stack_history(Story(seed, whole_stack=True), settings=settings)
                case Seeds.EDITED_FILES:
                    return edited_files_history(Story(seed), settings=settings)
                case Seeds.BUSY:
                    return busy_history(Story(seed), settings=settings)

    def first_caught(self, seeds: int = SEEDS_MAX) -> Caught | None:
        """The first of so many seeds that shows the bug; None: not caught."""
        for seed in range(seeds):
            error = self.history(seed).error
            if error is not None:
                return Caught(seed, error)
        return None


def _no_fsync() -> AbstractContextManager[object]:
    """A disk reports an fsync as done without doing it."""

    def sync(disk: ModelledDisk, name: str) -> None:
        del disk, name

    return mock.patch.object(ModelledDisk, "sync", sync)


def _no_token_check() -> AbstractContextManager[object]:
    """Any report counts as long as the task is running."""
    recognise, record = reports._recognise, reports._record

    def take(
        space: Space,
        report: worker_service_pb2.TaskReport,
        number: TaskNumber,
        row: state_pb2.TaskRow,
        result: worker_service_pb2.ReportResult,
    ) -> None:
        chosen = record if row.state == states.RUNNING else recognise
        chosen(space, report, number, row, result)

    return mock.patch.object(reports, "_recognise", take)


@contextmanager
def _expiry_by_the_wall_clock() -> Iterator[None]:
    """Deadlines use a clock that can be set."""
    attach = Broker._attach

    def attach_and_plant(broker: Broker, draw: random.Random) -> None:
        attach(broker, draw)
        leases: Any = broker.leader._leases
        leases._now_s = lambda: broker.clock.wall_ms() / 1000
        # Without this the leader would take the step of the clock for a stall, and wait.
        leases.expect_pass = lambda _at_s: None

    with mock.patch.object(Broker, "_attach", attach_and_plant):
        yield


@contextmanager
def _a_follower_that_claims() -> Iterator[None]:
    """A node that does not lead hands tasks out by itself, from the state that it has."""
    attach = Broker._attach

    def attach_and_plant(broker: Broker, draw: random.Random) -> None:
        attach(broker, draw)
        path = "/tq.v1.WorkerService/Claim"
        resolve = broker._router._resolve

        async def claim_here(method: Method, asked: Request, call: Call) -> bytes:
            follows = broker.replica.status().role is Role.FOLLOWER
            if follows and method is broker._methods[path] and broker._membership() is not None:
                request = worker_service_pb2.ClaimRequest.FromString(asked.raw)
                now_ms = queries.log_time(broker.store.view())
                workspace = broker.store.workspace()
                made = decide([Claim(request=request)], now_ms, workspace, draw)
                outcome = made.outcomes[0]
                if isinstance(outcome, Replied) and outcome.reply.ByteSize():
                    return outcome.reply.SerializeToString()
                await asyncio.sleep(0)
            return await resolve(method, asked, call)

        broker._router._resolve = claim_here  # type: ignore[method-assign,assignment]

    with mock.patch.object(Broker, "_attach", attach_and_plant):
        yield


def _a_forgotten_request_id() -> AbstractContextManager[object]:
    """A call that is repeated is decided again."""
    return mock.patch.object(request_ids, "remember", return_value=None)


@contextmanager
def _a_snapshot_without_its_index() -> Iterator[None]:
    """A node that received a state continues from the end of its own."""
    installed = SnapshotReceiving._installed

    def forget_index(receiving: SnapshotReceiving, *told: Any) -> None:  # noqa: ANN401
        before = receiving._core.applied_index
        installed(receiving, *told)
        receiving._core.applied_index = before

    with mock.patch.object(SnapshotReceiving, "_installed", forget_index):
        yield


@contextmanager
def _the_quorum_from_the_file() -> Iterator[None]:
    """A majority is counted among the members in the node's file."""

    def as_in_the_file(recorded: object, configured: Collection[str]) -> tuple[str, ...]:
        del recorded
        return tuple(sorted(configured))

    with (
        mock.patch.object(engine, "counted", as_in_the_file),
        mock.patch.object(host, "counted", as_in_the_file),
    ):
        yield


PLANTED = (
    Mutant("no fsync", _no_fsync),
    Mutant("no token check", _no_token_check, seeds=Seeds.WHOLE_STACK),
    Mutant("expiry by the wall clock", _expiry_by_the_wall_clock, seeds=Seeds.WHOLE_STACK),
    Mutant("a follower that claims", _a_follower_that_claims, seeds=Seeds.WHOLE_STACK),
    # R3 is off, too: with R3 overlapping entries are hardly ever sent.
    Mutant(
        "truncation on overlap",
        rules=Rules(keep_what_matches=False, monotonic_next_index=False),
    ),
    Mutant("acks counted across terms", rules=Rules(terms_in_answers=False)),
    Mutant("a forgotten request id", _a_forgotten_request_id, seeds=Seeds.WHOLE_STACK),
    Mutant("a snapshot without its index", _a_snapshot_without_its_index),
    Mutant("the quorum from the file", _the_quorum_from_the_file, seeds=Seeds.EDITED_FILES),
)
"""The classic bugs. The first seeds must catch each of them."""

RULES_OFF = (
    Mutant("R1 off", rules=Rules(terms_in_answers=False)),
    Mutant("R2 off", rules=Rules(keep_what_matches=False)),
    Mutant("R3 off", rules=Rules(monotonic_next_index=False)),
    Mutant("R4 off", rules=Rules(answer_after_fsync=False)),
    Mutant("R5 off", rules=Rules(chunks_commit_nothing=False)),
    Mutant("R6 off", rules=Rules(verified_snapshots=False)),
    Mutant("R8 off", rules=Rules(pre_vote=False), seeds=Seeds.BUSY),
    Mutant("R11 off", rules=Rules(skip_whole_terms=False)),
    Mutant("R13 off", rules=Rules(confirm_by_rounds=False)),
)
"""Those that no seed catches are shown by the directed scenarios of tests/raft/rules.py."""


def named(name: str) -> Mutant:
    """Find a bug by name; the KeyError lists the known names."""
    mutants = {mutant.name: mutant for mutant in (*PLANTED, *RULES_OFF)}
    if name not in mutants:
        raise KeyError(f"no mutant {name!r}; there are: {', '.join(mutants)}")
    return mutants[name]
