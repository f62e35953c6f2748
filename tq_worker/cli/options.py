"""The options of the command line, and their checks."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tq_client.async_client import DEFAULT_ADDRESSES
from tq_process import addresses
from tq_worker.api.errors import UsageError
from tq_worker.telemetry import tracing
from tq_worker.worker import WorkerOptions

CONCURRENCY_MAX = 1000
PROCESSES_MAX = 64
TASKS_PER_CHILD_MAX = 1_000_000_000
MEMORY_MB_MAX = 1_000_000
MB = 1_000_000
DEAF_AFTER_S_MIN = 2.0
QUEUES_MAX = 64
WORKER_ID_MAX = 200

_QUEUE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_RATIO = re.compile(r"\d+(\.\d+)?")
_LIMIT = re.compile(r"([A-Za-z0-9._:-]{1,128})=(\d{1,18})")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """What the command line asks for."""

    worker: WorkerOptions
    addresses: Sequence[str]


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    main = argparse.ArgumentParser(
        prog="tq-worker", description="Claims tasks and runs their handlers."
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run handlers until SIGTERM or Ctrl-C; a second one does not wait for them",
        description="Claim tasks from queues and run their handlers, until SIGTERM or Ctrl-C: then "
        "nothing is claimed any more, what runs may finish, and the rest is given back. A second "
        "signal does not wait.",
    )
    _add_options(run)
    check = commands.add_parser(
        "check",
        help="see whether run would start with these options, without starting it",
        description="Check the options of run, import the handlers in a process of their own, and "
        "list them. Exits with 2, and says all that is wrong, where run would not start.",
    )
    _add_options(check)
    return main


def module_names(text: str) -> list[str]:
    """Return the valid module names, each once."""
    names = (name.strip() for name in text.split(","))
    return list(dict.fromkeys(name for name in names if _MODULE.fullmatch(name)))


def _add_options(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--handlers",
        required=True,
        metavar="MODULE[,MODULE]",
        help="modules with functions decorated by @task; tq_worker.handlers has echo, sleep, "
        "compute and fail",
    )
    run.add_argument(
        "--queues",
        required=run.prog.endswith(" run"),
        metavar="QUEUE[,QUEUE]",
        help="where to claim from",
    )
    run.add_argument(
        "--concurrency", default="10", metavar="N", help="tasks that run at a time (default 10)"
    )
    run.add_argument(
        "--processes",
        default="1",
        metavar="P",
        help="processes that async handlers and threads share (default 1)",
    )
    run.add_argument(
        "--process-slots",
        metavar="N",
        help='tasks of handlers with execution="process" that run at a time, besides the others, '
        "each in a process of its own (default: one a core, at most --concurrency)",
    )
    run.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="TYPE=N",
        help="so many of a type run at a time, at most; goes before @task(concurrency=N); "
        "may be given again",
    )
    run.add_argument(
        "--max-tasks-per-child",
        metavar="N",
        help="have another process take over from one that was given so many tasks",
    )
    run.add_argument(
        "--max-memory-per-child",
        metavar="MB",
        help="the same once one uses so much; it finishes what it runs",
    )
    run.add_argument(
        "--address",
        metavar="HOST:PORT[,HOST:PORT]",
        help=f"brokers (default: $TQ_ADDRESS, else {DEFAULT_ADDRESSES})",
    )
    run.add_argument(
        "--lease",
        default="30s",
        metavar="TIME",
        help="how long tasks stay this worker's if it falls silent: 1s to 1h (default 30s)",
    )
    run.add_argument(
        "--worker-id", metavar="NAME", help="unique among workers (default: host, pid, random)"
    )
    run.add_argument(
        "--log-format", default="text", metavar="text|json", help="on standard error (default text)"
    )
    run.add_argument(
        "--log-tasks",
        action="store_true",
        help="log how each attempt starts and ends, too (with --reload, how it ends in any case)",
    )
    run.add_argument(
        "--otlp-endpoint",
        metavar="HOST:PORT",
        help="send traces to this collector's OTLP port for gRPC, https://HOST:PORT by TLS "
        "(default: $TQ_OTLP_ENDPOINT, else not)",
    )
    run.add_argument(
        "--tracing-ratio",
        metavar="R",
        help="how many of the traces that begin at this worker are recorded, 0 to 1 "
        "(default: $TQ_TRACING_RATIO, else all)",
    )
    run.add_argument(
        "--drain-timeout",
        default="60s",
        metavar="TIME",
        help="how long running tasks may take to finish after SIGTERM (default 60s)",
    )
    run.add_argument(
        "--unfit-for",
        default="10m",
        metavar="TIME",
        help="how long tasks that no worker can run, as their payload does not fit, are offered "
        "again before they are dead letters (default 10m)",
    )
    run.add_argument(
        "--deaf-after",
        default="60s",
        metavar="TIME",
        help="connect anew when no claim was answered for so long, and exit with 3 after as long "
        "again (default 60s)",
    )
    run.add_argument(
        "--metrics-listen",
        metavar="HOST:PORT",
        help="serve Prometheus metrics there (default: $TQ_METRICS_LISTEN, else not)",
    )
    run.add_argument(
        "--reload",
        action="store_true",
        help="for development: load the handlers anew when one of their files changes",
    )


def read(arguments: argparse.Namespace, environment: Mapping[str, str]) -> CommandLine:
    """Check the command line; raises UsageError with every problem found."""
    check = _Check()
    modules = check.names(
        "--handlers", arguments.handlers, _MODULE, "module names like package.module"
    )
    # Only `check` allows no queues: the handlers do not depend on them.
    named = "default" if arguments.queues is None else arguments.queues
    queues = check.names("--queues", named, _QUEUE, "1 to 128 characters of A-Z a-z 0-9 . _ -")
    if len(queues) > QUEUES_MAX:
        check.problems.append(f"--queues: {len(queues)} queues; at most {QUEUES_MAX}")
    concurrency = check.number("--concurrency", arguments.concurrency, 1, CONCURRENCY_MAX)
    processes = check.number("--processes", arguments.processes, 1, PROCESSES_MAX)
    if processes > concurrency:
        check.problems.append(
            f"--processes {processes}: more than --concurrency {concurrency}, "
            "so that some would have nothing to do"
        )
    process_slots = min(concurrency, len(os.sched_getaffinity(0)))
    if arguments.process_slots is not None:
        process_slots = check.number("--process-slots", arguments.process_slots, 1, PROCESSES_MAX)
    tasks_max = memory_mb_max = None
    if arguments.max_tasks_per_child is not None:
        tasks_max = check.number(
            "--max-tasks-per-child", arguments.max_tasks_per_child, 1, TASKS_PER_CHILD_MAX
        )
    if arguments.max_memory_per_child is not None:
        memory_mb_max = check.number(
            "--max-memory-per-child", arguments.max_memory_per_child, 1, MEMORY_MB_MAX
        )
    metrics = arguments.metrics_listen or environment.get("TQ_METRICS_LISTEN")
    metrics_listen = None
    if metrics:
        metrics_source = "--metrics-listen" if arguments.metrics_listen else "TQ_METRICS_LISTEN"
        metrics_listen = check.address(metrics_source, metrics)
    source = "--address" if arguments.address else "TQ_ADDRESS"
    brokers = check.addresses(
        source, arguments.address or environment.get("TQ_ADDRESS") or DEFAULT_ADDRESSES
    )
    lease_s = check.duration("--lease", arguments.lease, 1.0, 3600.0)
    drain_timeout_s = check.duration("--drain-timeout", arguments.drain_timeout, 0.0, 86_400.0)
    deaf_after_s = check.duration("--deaf-after", arguments.deaf_after, DEAF_AFTER_S_MIN, 3600.0)
    unfit_for_s = check.duration("--unfit-for", arguments.unfit_for, 1.0, 7 * 86_400.0)
    worker_id = arguments.worker_id
    if worker_id is None:
        worker_id = f"{socket.gethostname()[:150]}-{os.getpid()}-{secrets.token_hex(3)}"
    elif not 1 <= len(worker_id) <= WORKER_ID_MAX:
        check.problems.append(
            f"--worker-id: {len(worker_id)} characters; 1 to {WORKER_ID_MAX} are allowed"
        )
    if arguments.log_format not in {"text", "json"}:
        check.problems.append(f"--log-format {arguments.log_format!r}: must be text or json")
    telling = check.telling(arguments, environment)
    limits = check.limits("--limit", arguments.limit)
    if check.problems:
        raise UsageError(check.problems)
    return CommandLine(
        worker=WorkerOptions(
            worker_id=worker_id,
            modules=modules,
            queues=queues,
            concurrency=concurrency,
            processes=processes,
            process_slots=process_slots,
            limits=limits,
            tasks_max=tasks_max,
            memory_bytes_max=None if memory_mb_max is None else memory_mb_max * MB,
            lease_s=lease_s,
            drain_timeout_s=drain_timeout_s,
            deaf_after_s=deaf_after_s,
            unfit_for_s=unfit_for_s,
            reload=arguments.reload,
            metrics_listen=metrics_listen,
            log_format=arguments.log_format,
            telling=telling,
        ),
        addresses=brokers,
    )


class _Check:
    """Reads values and gathers their problems; the result of a bad value is never used."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def names(self, flag: str, text: str, pattern: re.Pattern[str], rule: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if not pattern.fullmatch(name):
                self.problems.append(f"{flag}: {name!r} is not allowed: {rule}")
        return list(dict.fromkeys(names))

    def number(self, flag: str, text: str, least: int, most: int) -> int:
        if re.fullmatch(r"-?\d{1,18}", text) and least <= int(text) <= most:
            return int(text)
        self.problems.append(f"{flag} {text!r}: must be a whole number from {least} to {most}")
        return least

    def limits(self, flag: str, texts: Sequence[str]) -> dict[str, int]:
        limits = {}
        for text in ",".join(texts).split(","):
            match = _LIMIT.fullmatch(text.strip())
            if match and 1 <= int(match[2]) <= CONCURRENCY_MAX:
                limits[match[1]] = int(match[2])
            elif texts:
                self.problems.append(
                    f"{flag} {text!r}: must be TYPE=N, N from 1 to {CONCURRENCY_MAX}"
                )
        return limits

    def duration(self, flag: str, text: str, least_s: float, most_s: float) -> float:
        match = _DURATION.fullmatch(text.strip())
        if match:
            duration_s = float(match[1]) * _UNIT_S[match[2]]
            if least_s <= duration_s <= most_s:
                return duration_s
        self.problems.append(
            f"{flag} {text!r}: must be a time like 500ms, 30s, 5m or 1h, "
            f"from {least_s:g} s to {most_s:g} s"
        )
        return least_s

    def telling(
        self, arguments: argparse.Namespace, environment: Mapping[str, str]
    ) -> tracing.Telling:
        source = "--otlp-endpoint" if arguments.otlp_endpoint else "TQ_OTLP_ENDPOINT"
        endpoint = arguments.otlp_endpoint or environment.get("TQ_OTLP_ENDPOINT") or None
        if endpoint is not None:
            address = endpoint.removeprefix("http://").removeprefix("https://").removesuffix("/")
            self.address(source, address)
            if not tracing.installed():
                self.problems.append(f"{source} {endpoint}: {tracing.TO_DO}")
        ratio_source = "--tracing-ratio" if arguments.tracing_ratio else "TQ_TRACING_RATIO"
        text = arguments.tracing_ratio or environment.get("TQ_TRACING_RATIO") or None
        ratio = float(text) if text and _RATIO.fullmatch(text) else None
        if text and (ratio is None or ratio > 1):
            self.problems.append(f"{ratio_source} {text!r}: must be a number from 0 to 1")
        wanted = tracing.Telling.read({**environment, "TQ_TRACING_RATIO": ""})
        return tracing.Telling(
            otlp_endpoint=endpoint,
            ratio=ratio,
            log_tasks=arguments.log_tasks or wanted.log_tasks,
        )

    def address(self, source: str, text: str) -> tuple[str, int] | None:
        try:
            return addresses.split(text)
        except ValueError as error:
            self.problems.append(f"{source}: {text!r}: {error}")
            return None

    def addresses(self, source: str, text: str) -> list[str]:
        try:
            return addresses.listed(text)
        except ValueError as error:
            self.problems.append(f"{source}: {error}")
            return []
