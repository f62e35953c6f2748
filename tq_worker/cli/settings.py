"""The settings of a worker: what each is called, and what it is for.

Apart from their types and limits (`config`), so that the list of commands needs no pydantic.
"""

from __future__ import annotations

from collections.abc import Sequence

from tq_process.settings.setting import Kind, Setting

SETTINGS: Sequence[Setting] = (
    Setting(
        ("handlers",),
        "TQ_WORKER_HANDLERS",
        "Modules with functions decorated by @task; tq_worker.handlers has echo, sleep, compute"
        " and fail.",
        metavar="MODULE,...",
    ),
    Setting(("queues",), "TQ_WORKER_QUEUES", "Queues to claim from.", metavar="QUEUE,..."),
    Setting(
        ("address",),
        "TQ_ADDRESS",
        "Brokers, separated by commas. Absent: ports 7001 to 7003 of 127.0.0.1.",
        metavar="HOST:PORT",
        empty_is_absent=True,
    ),
    Setting(
        ("concurrency",),
        "TQ_WORKER_CONCURRENCY",
        "Tasks that run at a time.",
        metavar="N",
        default="10",
    ),
    Setting(
        ("processes",),
        "TQ_WORKER_PROCESSES",
        "Processes that async handlers and threads share.",
        metavar="N",
        default="1",
    ),
    Setting(
        ("process_slots",),
        "TQ_WORKER_PROCESS_SLOTS",
        'Tasks of handlers with execution="process" that run at a time, besides the others, each'
        " in a process of its own. Absent: one a core, at most --concurrency.",
        metavar="N",
    ),
    Setting(
        ("limit",),
        "TQ_WORKER_LIMIT",
        "At most N tasks of a type run at a time; overrides @task(concurrency=N). May be given"
        " again.",
        metavar="TYPE=N,...",
        kind=Kind.LIST,
    ),
    Setting(
        ("max_tasks_per_child",),
        "TQ_WORKER_MAX_TASKS_PER_CHILD",
        "Replace a handler process after N tasks.",
        metavar="N",
    ),
    Setting(
        ("max_memory_per_child_mb",),
        "TQ_WORKER_MAX_MEMORY_PER_CHILD",
        "Replace a handler process that uses more memory (MB); its tasks finish.",
        own_flag="--max-memory-per-child",
        metavar="MB",
    ),
    Setting(
        ("lease",),
        "TQ_WORKER_LEASE",
        "How long tasks stay this worker's if its heartbeats stop: 1s to 1h.",
        metavar="TIME",
        default="30s",
    ),
    Setting(
        ("drain_timeout",),
        "TQ_WORKER_DRAIN_TIMEOUT",
        "How long running tasks may take to finish after SIGTERM.",
        metavar="TIME",
        default="60s",
    ),
    Setting(
        ("unfit_for",),
        "TQ_WORKER_UNFIT_FOR",
        "How long tasks whose payload fits no worker are offered again before they are dead"
        " letters.",
        metavar="TIME",
        default="10m",
    ),
    Setting(
        ("deaf_after",),
        "TQ_WORKER_DEAF_AFTER",
        "Reconnect if no claim was answered for so long, and exit with 3 after as long again.",
        metavar="TIME",
        default="60s",
    ),
    Setting(
        ("worker_id",),
        "TQ_WORKER_ID",
        "Unique among workers. Absent: host, pid and a random part.",
        metavar="NAME",
    ),
    Setting(
        ("log", "format"),
        "TQ_LOG_FORMAT",
        "text or json.",
        metavar="text|json",
        default="text",
    ),
    Setting(
        ("log", "tasks"),
        "TQ_LOG_TASKS",
        "A line for each start and end of an attempt.",
        kind=Kind.SWITCH,
        empty_is_absent=True,
    ),
    Setting(
        ("tracing", "otlp_endpoint"),
        "TQ_OTLP_ENDPOINT",
        "Who is sent traces: an OTLP port for gRPC, with https:// before it for TLS.",
        own_flag="--otlp-endpoint",
        metavar="HOST:PORT",
        empty_is_absent=True,
    ),
    Setting(
        ("tracing", "ratio"),
        "TQ_TRACING_RATIO",
        "Of traces begun here, 0 to 1 of them. Absent: all.",
        metavar="R",
        empty_is_absent=True,
    ),
    Setting(
        ("metrics_listen",),
        "TQ_METRICS_LISTEN",
        "Where metrics are served.",
        metavar="HOST:PORT",
        empty_is_absent=True,
    ),
    Setting(
        ("reload",),
        "TQ_WORKER_RELOAD",
        "For development: reload the handlers when one of their files changes.",
        kind=Kind.SWITCH,
    ),
)
"""All settings of a worker."""
