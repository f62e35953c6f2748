"""A node's file: its identity, its addresses, its limits.

The behaviour of queues is replicated state and not configured here. The environment overrides the
file, flags override the environment, and all mistakes are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from tq_cluster.errors import StartError
from tq_common import addresses
from tq_common.names import is_node_id
from tq_process.settings import load as loading
from tq_process.settings.setting import Mistake, Problem, Setting, SettingsError, summary
from tq_process.settings.types import Address, Endpoint, Ratio, Section, whole_number

MEMBERS_MAX = 7
_TRUE = frozenset({"true", "yes", "on", "1", "y", "t"})
"""The texts for true in the environment and on the command line."""


def _members_from_text(text: str) -> tuple[dict[str, Any], list[Problem]]:
    """Parse ``n1=host:raft/host:api,n2=...``."""
    members: dict[str, Any] = {}
    problems: list[Problem] = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        match = re.fullmatch(r"([^=/]+)=([^=/]+)/([^=/]+)", item)
        if match is None:
            right = "right is n1=RAFT_HOST:PORT/API_HOST:PORT, members apart by commas"
            problems.append(("members", f"{loading.shown(item)} is no member; {right}"))
            continue
        name, raft, api = match.groups()
        if name in members:
            problems.append((f"members.{name}", "stands twice"))
        members[name] = {"raft": raft, "api": api}
    return members, problems


SETTINGS: Sequence[Setting] = (
    Setting(("node_id",), "TQ_NODE_ID", "Who this broker is among the members."),
    Setting(("data_dir",), "TQ_DATA_DIR", "Its own directory."),
    Setting(
        ("members",),
        "TQ_MEMBERS",
        "All brokers: n1=RAFT_HOST:PORT/API_HOST:PORT,n2=...",
        from_text=_members_from_text,
    ),
    Setting(("single",), "TQ_SINGLE", "true: this broker is to be a cluster of one."),
    Setting(("listen", "raft"), "TQ_LISTEN_RAFT", "Where the raft port binds, HOST:PORT."),
    Setting(("listen", "api"), "TQ_LISTEN_API", "Where the API binds, HOST:PORT."),
    Setting(
        ("listen", "forward"),
        "TQ_LISTEN_FORWARD",
        "Where calls that other brokers send on are taken, HOST:PORT.",
    ),
    Setting(
        ("cluster_secret_file",),
        "TQ_CLUSTER_SECRET_FILE",
        "The secret that brokers prove to each other, the same for all.",
    ),
    Setting(
        ("cluster_secret_optional",),
        "TQ_CLUSTER_SECRET_OPTIONAL",
        "true: brokers without the secret are taken, too, until all have it.",
    ),
    Setting(("limits", "calls_max"), "TQ_CALLS_MAX", "Calls held at once."),
    Setting(("limits", "connections_max"), "TQ_CONNECTIONS_MAX", "Connections of callers at once."),
    Setting(
        ("limits", "disk_reserve_mb"),
        "TQ_DISK_RESERVE_MB",
        "With less free on its disk (MiB), no room for new tasks.",
    ),
    Setting(
        ("limits", "disk_ballast_mb"),
        "TQ_DISK_BALLAST_MB",
        "Held in a file, given up when the disk is all but full (MiB).",
    ),
    Setting(("log", "format"), "TQ_LOG_FORMAT", "text or json."),
    Setting(("log", "level"), "TQ_LOG_LEVEL", "debug, info, warning or error."),
    Setting(("log", "tasks"), "TQ_LOG_TASKS", "true: a line for what becomes of each task."),
    Setting(("metrics_listen",), "TQ_METRICS_LISTEN", "Where metrics are served, HOST:PORT."),
    Setting(("tracing", "otlp_endpoint"), "TQ_OTLP_ENDPOINT", "Who is sent traces, HOST:PORT."),
    Setting(("tracing", "ratio"), "TQ_TRACING_RATIO", "Of traces begun here, 0 to 1 of them."),
)
"""All settings of a node."""


def _node_id(value: str) -> str:
    if not is_node_id(value):
        raise ValueError("must be 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit")
    return value


def _few(members: dict[str, Member]) -> dict[str, Member]:
    if not 1 <= len(members) <= MEMBERS_MAX:
        raise ValueError(f"must name 1 to {MEMBERS_MAX} members")
    return members


NodeId = Annotated[str, AfterValidator(_node_id)]


class Member(Section):
    """One member's addresses: its raft port for nodes, its API for clients and nodes."""

    raft: Address
    api: Address


class Listen(Section):
    """Where this node binds, if not at its own addresses in ``members``."""

    raft: Address | None = None
    api: Address | None = None
    forward: Address | None = None
    """Where calls forwarded by other nodes are taken. Absent: beside the raft port, at any port."""


class Limits(Section):
    """Limits of this process."""

    calls_max: Annotated[int, whole_number(1, 1_000_000)] = 20_000
    """Calls held at once, long polls included; one more is answered OVERLOADED."""
    connections_max: Annotated[int, whole_number(16, 65_536)] = 4_096
    """Callers' connections at once, as far as there are descriptors; about 36 KiB of memory for
    each that carries a call. One more is closed at once.
    """
    disk_reserve_mb: Annotated[int, whole_number(1, 1_048_576)] = 256
    """With less space free on its disk (in MiB), the node counts as full for new tasks."""
    disk_ballast_mb: Annotated[int, whole_number(0, 1_048_576)] = 64
    """The size (in MiB) of a file that is given up when the disk is nearly full; 0: none."""


class Log(Section):
    """Which log lines are written to standard error, and their format."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    tasks: bool = False
    """Whether the leader logs the events of tasks, several lines for each task."""


class Tracing(Section):
    """Which traces are recorded, and where they are sent (docs/monitoring.md)."""

    otlp_endpoint: Endpoint | None = None
    """A collector's OTLP port for gRPC: host:port, or https://host:port for TLS. Absent: none."""
    ratio: Ratio | None = None
    """The share of the traces that begin here to record; others follow their own sampled flag.
    Absent: OTEL_TRACES_SAMPLER, by default all.
    """


class NodeConfig(Section):
    """The configuration of one node."""

    node_id: NodeId
    data_dir: Path
    members: Annotated[dict[NodeId, Member], AfterValidator(_few)]
    single: bool = False
    """A cluster of one node is intended. Without it a file with one member forms none."""
    listen: Listen = Listen()
    cluster_secret_file: Path | None = None
    """The secret that brokers prove to each other. Absent: anyone who reaches the raft port and
    knows what only members know is taken for a member.
    """
    cluster_secret_optional: bool = False
    """Whether brokers without a proof are accepted, too: while not all have the secret yet."""
    limits: Limits = Limits()
    log: Log = Log()
    tracing: Tracing = Tracing()
    metrics_listen: Address | None = None
    """Where metrics are served over HTTP. Absent: nowhere."""

    @property
    def listen_raft(self) -> str:
        """Where the raft port binds."""
        return self.listen.raft or self.members[self.node_id].raft

    @property
    def listen_forward(self) -> str:
        """Where forwarded calls are taken; port 0: any free port."""
        return self.listen.forward or f"{self.listen_raft.rpartition(':')[0]}:0"

    def forward_address(self, node_id: str, port: int) -> str:
        """The address for forwarded calls, as the other nodes reach it."""
        return f"{self.members[node_id].raft.rpartition(':')[0]}:{port}"

    @property
    def listen_api(self) -> str:
        """Where the API binds."""
        return self.listen.api or self.members[self.node_id].api


class ConfigError(StartError):
    """All mistakes of a configuration."""

    def __init__(self, mistakes: Sequence[Mistake], unlisted: int = 0) -> None:
        super().__init__(summary(mistakes, unlisted))
        self.mistakes = mistakes


def load(path: Path | None, environment: Mapping[str, str], flags: loading.Flags) -> NodeConfig:
    """Read a node's file with its overrides; ConfigError lists every mistake.

    ``flags`` maps a field's path to its value on the command line, such as ``("listen", "api"):
    "0.0.0.0:7001"``.
    """
    try:
        return loading.load(
            NodeConfig,
            SETTINGS,
            path=path,
            environment=environment,
            flags=flags,
            example="node_id: n1",
            contradictions=_contradictions,
        )
    except SettingsError as error:
        raise ConfigError(error.mistakes, error.unlisted) from None


def _contradictions(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Find fields that are each well formed and contradict each other; the model checks forms."""
    node_id, members = values.get("node_id"), values.get("members")
    optional = str(values.get("cluster_secret_optional", "")).lower() in _TRUE
    if optional and not values.get("cluster_secret_file"):
        yield "cluster_secret_optional", "is true without a cluster_secret_file; give that, too"
    data_dir = values.get("data_dir")
    if isinstance(data_dir, str) and "\0" in data_dir:
        yield "data_dir", f"{data_dir!r} has a NUL in it; right is a path such as /var/lib/tq/n1"
    if data_dir == "":
        yield "data_dir", "is empty; right is a path such as /var/lib/tq/n1"
    if not isinstance(members, dict) or not members:
        return
    if isinstance(node_id, str) and node_id not in members:
        names = ", ".join(sorted(map(str, members)))
        yield "node_id", f"{loading.shown(node_id)} is not among the members ({names})"
    if len(members) > 1 and str(values.get("single", "")).lower() in _TRUE:
        names = ", ".join(sorted(map(str, members)))
        yield "single", f"is true, but members names {len(members)} ({names}); right is one of them"
    holders: dict[str, str] = {}
    for name, member in members.items():
        if not isinstance(member, dict):
            continue
        for kind in ("raft", "api"):
            address = member.get(kind)
            if not isinstance(address, str):
                continue
            field = f"members.{name}.{kind}"
            try:
                spelt = addresses.canonical(address)
            except ValueError:
                continue  # refused by the model
            if spelt in holders:
                yield field, f"{address} is already that of {holders[spelt]}"
            else:
                holders[spelt] = field
