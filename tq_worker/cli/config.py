"""A worker's file: its handlers, its queues, its limits.

The environment overrides the file, flags override the environment, and all mistakes are reported
at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from tq_common import addresses, durations
from tq_common.limits import CLAIM_QUEUES_MAX
from tq_common.names import QUEUE_NAME_RULE, WORKER_ID_CHARS_MAX, is_queue_name, is_task_type
from tq_process.settings import load as loading
from tq_process.settings.setting import Problem, SettingsError
from tq_process.settings.types import (
    Address,
    Endpoint,
    Ratio,
    Section,
    whole,
    whole_number,
    wrong,
)
from tq_worker.cli.settings import SETTINGS
from tq_worker.telemetry import tracing

CONCURRENCY_MAX: Final = 1000
PROCESSES_MAX: Final = 64
TASKS_PER_CHILD_MAX: Final = 1_000_000_000
MEMORY_MB_MAX: Final = 1_000_000
DAY_S: Final = 86_400.0

_is_module: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*").fullmatch
_NAMED_MAX: Final = 3
"""How many wrong names a message quotes."""


def _duration_s(least_s: float, most_s: float, value: object) -> float:
    """Read a length of time; a number, or text of a number alone, is in seconds."""
    duration_s = math.nan
    if isinstance(value, str):
        with suppress(ValueError):  # ours says the limits, too
            duration_s = durations.parse(value).total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        duration_s = float(value)
    if least_s <= duration_s <= most_s:
        return duration_s
    raise ValueError(
        f"must be a time such as 500ms, 30s, 5m or 1h, from {_spelt(least_s)} to {_spelt(most_s)}"
    )


def _spelt(duration_s: float) -> str:
    for unit in ("h", "m"):
        count, rest = divmod(duration_s * durations.SECOND_MS, durations.UNITS_MS[unit])
        if count and not rest:
            return f"{count:g}{unit}"
    return f"{duration_s:g}s"


def _names(is_name: Callable[[str], object], rule: str, value: object) -> tuple[str, ...]:
    """Take a list, or text separated by commas; each name counts once."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not given:
        raise ValueError("must be a list of names, or text with commas between them")
    names = [each.strip() if isinstance(each, str) else each for each in given]
    faulty = [each for each in names if not isinstance(each, str) or not is_name(each)]
    if faulty:
        quoted = ", ".join(map(loading.shown, faulty[:_NAMED_MAX]))
        more = f" and {len(faulty) - _NAMED_MAX} more" if len(faulty) > _NAMED_MAX else ""
        raise wrong(f"{quoted}{more} cannot be a name here; right is {rule}")
    return tuple(dict.fromkeys(names))


def _few(queues: tuple[str, ...]) -> tuple[str, ...]:
    if len(queues) > CLAIM_QUEUES_MAX:
        raise wrong(f"names {len(queues)} queues; right is {CLAIM_QUEUES_MAX} at most")
    return queues


def _limits(value: object) -> dict[str, int]:
    """Take a mapping, or text such as ``resize=2,mail=1``; of a repeated type the last counts."""
    given: list[tuple[object, object, object]]
    """Each as it was given, its type, and its number."""
    if isinstance(value, str):
        items = [item.strip() for item in value.split(",")]
        given = [(item, item.partition("=")[0], item.partition("=")[2]) for item in items]
    elif isinstance(value, dict):
        given = [({name: count}, name, count) for name, count in value.items()]
    else:
        raise ValueError(  # noqa: TRY004 - of which pydantic makes an error
            "must be a mapping of types to numbers, or text such as resize=2,mail=1"
        )
    limits = {}
    for item, name, count in given:
        try:
            limit = whole(1, CONCURRENCY_MAX, count)
        except ValueError:
            limit = 0
        if not limit or not isinstance(name, str) or not is_task_type(name):
            raise wrong(
                f"{loading.shown(item)} is no limit; right is a type, and a whole number from 1 to"
                f" {CONCURRENCY_MAX}, such as resize=2"
            )
        limits[name] = limit
    return limits


def _addresses(value: object) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
        raise ValueError("must be host:port, or several in a list or with commas between them")
    return tuple(addresses.listed(",".join(given)))


def _worker_id(value: str) -> str:
    if not 1 <= len(value) <= WORKER_ID_CHARS_MAX:
        raise wrong(f"has {len(value)} characters; right is 1 to {WORKER_ID_CHARS_MAX}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be Unicode") from None
    return value


def _duration(least_s: float, most_s: float) -> BeforeValidator:
    return BeforeValidator(partial(_duration_s, least_s, most_s))


Modules = Annotated[
    tuple[str, ...], BeforeValidator(partial(_names, _is_module, "modules like package.module"))
]
Queues = Annotated[
    tuple[str, ...],
    BeforeValidator(partial(_names, is_queue_name, QUEUE_NAME_RULE)),
    AfterValidator(_few),
]
Addresses = Annotated[tuple[str, ...], BeforeValidator(_addresses)]
LimitsByType = Annotated[dict[str, int], BeforeValidator(_limits)]
WorkerId = Annotated[str, Strict(), AfterValidator(_worker_id)]


def _default(name: str) -> Any:  # noqa: ANN401 - as of pydantic's Field
    [text] = [setting.default for setting in SETTINGS if setting.name == name]
    return Field(default=text, validate_default=True)


class Log(Section):
    """Which log lines are written to standard error, and their format."""

    format: Literal["text", "json"] = _default("log.format")
    tasks: bool = False
    """Whether the start and the end of each attempt are logged; failures are in any case."""


class Tracing(Section):
    """Which traces are recorded, and where they are sent (docs/monitoring.md)."""

    otlp_endpoint: Endpoint | None = None
    """A collector's OTLP port for gRPC: host:port, or https://host:port for TLS. Absent: none."""
    ratio: Ratio | None = None
    """The share of the traces that begin here to record. Absent: all."""


class WorkerConfig(Section):
    """The configuration of one worker. Times are in seconds once they are read."""

    handlers: Modules
    queues: Queues
    address: Addresses | None = None
    """The brokers. Absent: the client's default."""
    concurrency: Annotated[int, whole_number(1, CONCURRENCY_MAX)] = _default("concurrency")
    processes: Annotated[int, whole_number(1, PROCESSES_MAX)] = _default("processes")
    process_slots: Annotated[int, whole_number(1, PROCESSES_MAX)] | None = None
    """Absent: one a core, at most ``concurrency``."""
    limit: LimitsByType = {}  # noqa: RUF012 - pydantic gives each model a copy
    """By type, how many tasks run at a time; these override the handlers' own limits."""
    max_tasks_per_child: Annotated[int, whole_number(1, TASKS_PER_CHILD_MAX)] | None = None
    max_memory_per_child_mb: Annotated[int, whole_number(1, MEMORY_MB_MAX)] | None = None
    """In units of 1,000,000 bytes."""
    lease: Annotated[float, _duration(1.0, 3600.0)] = _default("lease")
    drain_timeout: Annotated[float, _duration(0.0, DAY_S)] = _default("drain_timeout")
    unfit_for: Annotated[float, _duration(1.0, 7 * DAY_S)] = _default("unfit_for")
    deaf_after: Annotated[float, _duration(2.0, 3600.0)] = _default("deaf_after")
    worker_id: WorkerId | None = None
    """Absent: made of the host, the process and chance."""
    log: Log = Log()
    tracing: Tracing = Tracing()
    metrics_listen: Address | None = None
    """Where metrics are served over HTTP. Absent: nowhere."""
    reload: bool = False


class CheckedConfig(WorkerConfig):
    """The same, if no queue need be known: handlers do not depend on them."""

    queues: Queues | None = None  # type: ignore[assignment] # as it says


@dataclass(frozen=True, slots=True)
class Attempt:
    """The outcome of reading a configuration that may have mistakes."""

    config: CheckedConfig | None
    """None if there are any."""
    modules: Sequence[str]
    """The valid names of handler modules."""
    error: SettingsError | None


def load(path: Path | None, environment: Mapping[str, str], flags: loading.Flags) -> WorkerConfig:
    """Read a worker's file with its overrides; SettingsError lists every mistake.

    ``flags`` maps a field's path to its value on the command line, such as ``("log", "format"):
    "json"``.
    """
    return _load(WorkerConfig, path, environment, flags)


def attempt(path: Path | None, environment: Mapping[str, str], flags: loading.Flags) -> Attempt:
    """Read the same as far as possible; without queues, too."""
    try:
        config = _load(CheckedConfig, path, environment, flags)
    except SettingsError as error:
        return Attempt(None, _modules(error.values.get("handlers")), error)
    return Attempt(config, config.handlers, None)


def _load(
    model: type[loading.Model],
    path: Path | None,
    environment: Mapping[str, str],
    flags: loading.Flags,
) -> loading.Model:
    return loading.load(
        model,
        SETTINGS,
        path=path,
        environment=environment,
        flags=flags,
        example="handlers: package.module",
        contradictions=_contradictions,
    )


def _modules(value: object) -> list[str]:
    """The valid module names, each once."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list):
        return []
    names = (each.strip() for each in given if isinstance(each, str))
    return list(dict.fromkeys(name for name in names if _is_module(name)))


def _contradictions(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Find fields that are each well formed and contradict each other; the model checks forms."""
    concurrency = _counted(values, "concurrency", CONCURRENCY_MAX)
    processes = _counted(values, "processes", PROCESSES_MAX)
    if concurrency is not None and processes is not None and processes > concurrency:
        idle = f"{processes} is more than the concurrency, so that some would have nothing to do"
        yield "processes", f"{idle}; right is 1 to {concurrency}"
    section = values.get("tracing")
    endpoint = section.get("otlp_endpoint") if isinstance(section, dict) else None
    if endpoint is not None and not tracing.installed():
        yield "tracing.otlp_endpoint", tracing.TO_DO


def _counted(values: Mapping[str, Any], name: str, most: int) -> int | None:
    """A number as the model takes it; None if it is wrong."""
    try:
        return whole(1, most, values.get(name, WorkerConfig.model_fields[name].default))
    except ValueError:
        return None
