"""A node's file: its identity, its addresses, its limits.

The behaviour of queues is replicated state and not configured here. The environment overrides the
file, flags override the environment, and all mistakes are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from tq_cluster.errors import StartError
from tq_process import addresses

MEMBERS_MAX = 7
_TRUE = frozenset({"true", "yes", "on", "1", "y", "t"})
"""The texts for true in the environment and on the command line."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a node's file, and its overrides."""

    field: tuple[str, ...]
    """Its path in the file."""
    environment: str
    help: str

    @property
    def flag(self) -> str:
        """The option of `serve`, which overrides the environment."""
        return f"--{self.parameter.replace('_', '-')}"

    @property
    def parameter(self) -> str:
        """The path in one word."""
        return "_".join(self.field)


SETTINGS: Sequence[Setting] = (
    Setting(("node_id",), "TQ_NODE_ID", "Who this broker is among the members."),
    Setting(("data_dir",), "TQ_DATA_DIR", "Its own directory."),
    Setting(("members",), "TQ_MEMBERS", "All brokers: n1=RAFT_HOST:PORT/API_HOST:PORT,n2=..."),
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


def _address(value: str) -> str:
    addresses.split(value)
    return value


def _endpoint(value: str) -> str:
    address = value.removeprefix("http://").removeprefix("https://").removesuffix("/")
    if "/" in address:
        raise ValueError("must be host:port, with nothing, http:// or https:// before it")
    addresses.split(address)
    return value


Address = Annotated[str, AfterValidator(_address)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
NodeId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Section):
    """One member's addresses: its raft port for nodes, its API for clients and nodes."""

    raft: Address
    api: Address


class Listen(_Section):
    """Where this node binds, if not at its own addresses in ``members``."""

    raft: Address | None = None
    api: Address | None = None
    forward: Address | None = None
    """Where calls forwarded by other nodes are taken. Absent: beside the raft port, at any port."""


class Limits(_Section):
    """Limits of this process."""

    calls_max: int = Field(default=20_000, ge=1, le=1_000_000)
    """Calls held at once, long polls included; one more is answered OVERLOADED."""
    connections_max: int = Field(default=4_096, ge=16, le=65_536)
    """Callers' connections at once, as far as there are descriptors; about 36 KiB of memory for
    each that carries a call. One more is closed at once.
    """
    disk_reserve_mb: int = Field(default=256, ge=1, le=1_048_576)
    """With less space free on its disk (in MiB), the node counts as full for new tasks."""
    disk_ballast_mb: int = Field(default=64, ge=0, le=1_048_576)
    """The size (in MiB) of a file that is given up when the disk is nearly full; 0: none."""


class Log(_Section):
    """Which log lines are written to standard error, and their format."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    tasks: bool = False
    """Whether the leader logs the events of tasks, several lines for each task."""


class Tracing(_Section):
    """Which traces are recorded, and where they are sent (docs/monitoring.md)."""

    otlp_endpoint: Endpoint | None = None
    """A collector's OTLP port for gRPC: host:port, or https://host:port for TLS. Absent: none."""
    ratio: float | None = Field(default=None, ge=0, le=1)
    """The share of the traces that begin here to record; others follow their own sampled flag.
    Absent: OTEL_TRACES_SAMPLER, by default all.
    """


class NodeConfig(_Section):
    """The configuration of one node."""

    node_id: NodeId
    data_dir: Path
    members: dict[NodeId, Member] = Field(min_length=1, max_length=MEMBERS_MAX)
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


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake: the field, where its value came from, and what would be right."""

    field: str
    source: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field} ({self.source}): {self.problem}" if self.field else self.problem


class ConfigError(StartError):
    """All mistakes of a configuration."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        lines = "\n".join(f"  {mistake}" for mistake in mistakes)
        noun = "mistake" if len(mistakes) == 1 else "mistakes"
        super().__init__(f"the configuration has {len(mistakes)} {noun}:\n{lines}")
        self.mistakes = mistakes


def load(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[tuple[str, ...], str]
) -> NodeConfig:
    """Read a node's file with its overrides; ConfigError lists every mistake.

    ``flags`` maps a field's path to its value on the command line, such as ``("listen", "api"):
    "0.0.0.0:7001"``.
    """
    mistakes: list[Mistake] = []
    values = _read_file(path, mistakes) if path is not None else {}
    unread = bool(mistakes)
    file_name = str(path) if path is not None else "no file given"
    sources: dict[str, str] = {}
    for setting in SETTINGS:
        for source, given in (
            (setting.environment, environment.get(setting.environment)),
            (setting.flag, flags.get(setting.field)),
        ):
            if given is not None:
                _override(values, sources, setting.field, given, source, mistakes)

    config: NodeConfig | None = None
    try:
        config = NodeConfig.model_validate(values)
    except ValidationError as error:
        for detail in error.errors():
            if unread and detail["type"] == "missing":
                continue  # it may be in the file
            field_name = ".".join(str(part) for part in detail["loc"] if part != "[key]")
            mistakes.append(
                Mistake(
                    field_name,
                    _source(sources, field_name, file_name),
                    _say(detail["type"], detail["msg"], detail.get("ctx", {}), detail["input"]),
                )
            )
    for field_name, problem in _contradictions(values):
        mistakes.append(Mistake(field_name, _source(sources, field_name, file_name), problem))
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice; the stock YAML loader silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a field's name must be text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _read_file(path: Path, mistakes: list[Mistake]) -> dict[str, Any]:
    try:
        loaded = yaml.load(path.read_bytes(), Loader=_UniqueKeyLoader)  # noqa: S506  # a SafeLoader
    except OSError as error:
        mistakes.append(Mistake("", "", f"{path}: cannot be read: {error.strerror}"))
        return {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        mistakes.append(Mistake("", "", f"{path}{where}: not YAML: {error.problem}"))
        return {}
    except (yaml.YAMLError, ValueError) as error:  # an invalid date is a ValueError
        mistakes.append(Mistake("", "", f"{path}: not YAML: {error}"))
        return {}
    except RecursionError:
        mistakes.append(Mistake("", "", f"{path}: not YAML: nested too deeply"))
        return {}
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        mistakes.append(
            Mistake("", "", f"{path}: must be a mapping of fields, such as node_id: n1")
        )
        return {}
    return loaded


def _override(
    values: dict[str, Any],
    sources: dict[str, str],
    field: tuple[str, ...],
    text: str,
    source: str,
    mistakes: list[Mistake],
) -> None:
    target = values
    for part in field[:-1]:
        section = target.get(part)
        # The model reports a section that is not a mapping; the override starts a new one.
        target[part] = target = dict(section) if isinstance(section, dict) else {}
    value: Any = text
    if field == ("members",):
        value = _parse_members(text, source, mistakes)
    elif field[0] == "limits" and re.fullmatch(r"[0-9]+", text):
        value = int(text)
    target[field[-1]] = value
    sources[".".join(field)] = source


def _parse_members(text: str, source: str, mistakes: list[Mistake]) -> dict[str, Any]:
    """Parse ``n1=host:raft/host:api,n2=...``."""
    members: dict[str, Any] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        match = re.fullmatch(r"([^=/]+)=([^=/]+)/([^=/]+)", item)
        if match is None:
            right = "right is n1=RAFT_HOST:PORT/API_HOST:PORT, members apart by commas"
            mistakes.append(Mistake("members", source, f"{item!r} is no member; {right}"))
            continue
        name, raft, api = match.groups()
        if name in members:
            mistakes.append(Mistake(f"members.{name}", source, "stands twice"))
        members[name] = {"raft": raft, "api": api}
    return members


def _source(sources: Mapping[str, str], field: str, file_name: str) -> str:
    for known, source in sources.items():
        if field == known or field.startswith(known + "."):
            return source
    return file_name


def _say(kind: str, message: str, context: Mapping[str, Any], value: object) -> str:
    """Describe what is wrong and what would be right."""
    match kind:
        case "missing":
            return "is missing; it is required"
        case "extra_forbidden":
            return "is not a field that is known here"
        case "string_type":
            return f"must be text, is {value!r}; write it in quotes"
        case "string_pattern_mismatch":
            return (
                f"{value!r} must be 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit"
            )
        case "literal_error":
            return f"is {value!r}; right is one of {context['expected']}"
        case "value_error":
            return f"{context['error']}; is {value!r}"
        case "too_short" | "too_long":
            return f"must name 1 to {MEMBERS_MAX} members"
        case "dict_type" | "model_type":
            return f"must be a mapping, is {value!r}"
        case "path_type":
            return f"must be a path, is {value!r}"
        case _:
            return f"{message}; is {value!r}"


def _contradictions(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
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
        yield "node_id", f"{node_id!r} is not among the members ({names})"
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
