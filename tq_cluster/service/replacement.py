"""Replacing a member with an empty node, and when that is refused."""

from __future__ import annotations

from tq.v1 import cluster_service_pb2 as pb
from tq.v1 import errors_pb2
from tq_cluster.core.kernel.validation import invalid
from tq_cluster.core.model.operations import Caller, Refused, ReplaceNode, Replied
from tq_cluster.errors import NotLeaderError
from tq_cluster.raft.log_api import Log, LogStatus, Role
from tq_cluster.service.backend import Leading
from tq_cluster.service.errors import refusal


class Replacement:
    """The leader's check of the nodes present, before it decides a replacement."""

    def __init__(self, *, node_id: str, log: Log, leading: Leading) -> None:
        self._node_id = node_id
        self._log = log
        self._leading = leading

    async def replace(
        self, request: pb.ReplaceNodeRequest, caller: Caller
    ) -> pb.ReplaceNodeResponse:
        """Have the empty node that introduces itself under that name take the member's place."""
        status = self._log.status()
        if status.role is not Role.LEADER:
            raise NotLeaderError(status.leader_id)
        refused = self._refused(request, status)
        if refused is not None:
            raise refusal(refused)
        outcome = await self._leading.submit(
            ReplaceNode(
                node_id=request.node_id,
                incarnation=status.strangers[request.node_id],
                caller=caller,
            )
        )
        if isinstance(outcome, Refused):
            raise refusal(outcome)
        assert isinstance(outcome, Replied)
        assert isinstance(outcome.reply, pb.ReplaceNodeResponse)
        return outcome.reply

    def _refused(self, request: pb.ReplaceNodeRequest, status: LogStatus) -> Refused | None:
        name = request.node_id
        members = sorted([self._node_id, *status.peers])
        if name not in members:
            return invalid("node_id", f"is {name[:64]!r}, no member; right is {', '.join(members)}")
        if name == self._node_id:
            return _not_replaceable(f"{name} leads: whoever leads has what the cluster has")
        connected = status.peers[name].connected
        if name not in status.strangers:
            if connected:
                return _not_replaceable(f"{name} is up and well: there is nothing to replace")
            return _not_replaceable(
                f"no empty node introduces itself to {self._node_id} as {name}: start one with "
                "that name, an empty data directory and the members' addresses"
            )
        if connected and not request.force:
            return _not_replaceable(
                f"{name} is up and well beside the empty node of that name: stop it first, or "
                "force its replacement, which cuts it off for good"
            )
        majority = len(members) // 2 + 1
        up = 1 + sum(peer.connected for other, peer in status.peers.items() if other != name)
        if up < majority:
            return _not_replaceable(
                f"only {up} of {len(members)} members are up without {name}, and {majority} must "
                "hold the change before it counts: bring another one back first"
            )
        return None


def _not_replaceable(message: str) -> Refused:
    return Refused(reason=errors_pb2.ERROR_REASON_NOT_REPLACEABLE, message=message)
