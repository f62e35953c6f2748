"""`tq-admin verify`: whether all brokers hold the same state, compared row by row."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group, RenderableType

from tq.v1.cluster_service_pb2 import VerifyStateResponse
from tq_admin.failures import Failure, doing
from tq_admin.output import details, grid, instant
from tq_admin.plain import Plain, plain
from tq_admin.session import Session

LOOK_S = 0.2
ANSWER_LOOKS = 25
"""How often the last answers are polled for, once the leader itself is done."""
COLUMNS = ("NODE", "RANGES THAT AGREE", "OWES ENTRY")


def verify(
    session: Session,
    status: Annotated[
        bool, typer.Option("--status", help="Only show what the background has found so far.")
    ] = False,
) -> None:
    """Have every broker hash its whole state, range by range, and compare.

    Everything goes on meanwhile. A broker that differs from the majority stops; started again it
    sets its state aside and takes the others'. Exits with 1 where a difference was found in this
    pass, or, with --status, in the last one.
    """
    seen = _look(session, start=not status)
    if not status:
        seen = _follow(session, seen)
    data = plain(seen)
    session.output.show(data, lambda: _render(data))
    differing = [each.message for each in seen.differences if not each.earlier]
    if differing:
        raise Failure(
            "; ".join(differing),
            "See who is back and caught up with: tq-admin cluster-status",
        )
    owing = [each.node_id for each in seen.nodes if each.unanswered_index]
    if owing and not status:
        raise Failure(
            f"{', '.join(owing)} did not answer for every range",
            "See who is down or behind with: tq-admin cluster-status; then run it again.",
        )


def _follow(session: Session, before: VerifyStateResponse) -> VerifyStateResponse:
    """Wait for the end of a pass that began after ``before``, and for the answers to it."""
    seen = before
    earlier = max(before.began_at.ToNanoseconds(), before.last_began_at.ToNanoseconds())
    while seen.last_began_at.ToNanoseconds() <= earlier:
        session.pause(LOOK_S)
        # The asked leader may have died: the next one does not know of the pass.
        seen = _look(session, start=seen.began_at.ToNanoseconds() <= earlier)
    for _ in range(ANSWER_LOOKS):
        if not any(each.unanswered_index for each in seen.nodes):
            break
        session.pause(LOOK_S)
        seen = _look(session)
    return seen


def _look(session: Session, *, start: bool = False) -> VerifyStateResponse:
    with doing("cannot verify the state"):
        return session.client.verify_state(start=start)


def _render(data: Plain) -> RenderableType:
    heading = [
        ("last pass", instant(data["last_finished_at"]) or "none yet"),
        ("rows compared", data["last_rows"]),
    ]
    if data["began_at"] is not None:
        heading.append(("this pass", f"{data['rows']} of about {data['rows_total']} rows"))
    earlier = [each["message"] for each in data["differences"] if each["earlier"]]
    heading.append(("differences", len(data["differences"]) - len(earlier) or "none"))
    heading += [("found before", message) for message in earlier]
    rows = [
        (each["node_id"], each["ranges_agreed"], each["unanswered_index"] or "-")
        for each in data["nodes"]
    ]
    return Group(details(heading), grid(COLUMNS, rows))
