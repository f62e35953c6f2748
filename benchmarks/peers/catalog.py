"""The systems beside each other: what each needs, what its answers mean, and what it lacks."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.peers import processes
from benchmarks.peers.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One row of the table."""

    name: str
    module: str
    """It has `running(folder)`, and is imported only if everything is installed."""
    servers: str
    """How many servers run, and how they are set."""
    durability: str
    """What an answer to a submit means."""
    client: str
    worker: str
    programs: Mapping[str, str | None] = field(default_factory=dict)
    """Each server program, and the argument that makes it print its version; empty: the name of its
    folder has it; None: a helper."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Each distribution, and the module to look for."""
    user: str | None = None
    """Who runs the server if root must not."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Workloads that the system has no call for, and why: a dash in the table."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What to know about a figure of a workload."""

    def missing(self) -> str | None:
        """Say what is not installed; None if the system can run."""
        for program in self.programs:
            if processes.find(program) is None:
                return f"no {program}"
        for distribution, module in self.libraries.items():
            if importlib.util.find_spec(module) is None:
                return f"no {distribution}"
        if self.user is not None and os.geteuid() == 0 and not processes.has_user(self.user):
            return f"no user {self.user}"
        return None

    def versions(self) -> str:
        """Say which versions were measured."""
        found = [
            f"{program} {processes.version(program, arguments)}"
            for program, arguments in self.programs.items()
            if arguments is not None
        ]
        found += [f"{name} {importlib.metadata.version(name)}" for name in self.libraries]
        return "; ".join(found)

    @asynccontextmanager
    async def running(self, folder: Path) -> AsyncIterator[Session]:
        """Start the system in a folder; it ends with this context."""
        driver = importlib.import_module(self.module)
        async with driver.running(folder) as session:
            yield session


NO_CALL_OF_MANY: Final = "its client has no call that submits many tasks"
AT_ONCE: Final = "no such call: 100 are published, then all confirmations awaited"
NO_WORKER: Final = "not a task queue: it has no worker"
POLLED: Final = "its client has no call that waits for the end: the submitter asks every 10 ms"
REDIS: Final = "one server, appendonly, appendfsync everysec"
REDIS_ANSWER: Final = (
    "no fsync before the answer: in the memory of one server, fsync once a second, no copy"
)
FSYNC_MAJORITY: Final = "fdatasync on a majority of three before the answer"

SYSTEMS: Final = (
    System(
        name="tq",
        module="benchmarks.peers.tq_brokers",
        servers="three brokers",
        durability=FSYNC_MAJORITY,
        client="AsyncClient: callers share calls",
        worker="tq-worker, one process, concurrency 500",
        libraries={"tq": "tq"},
    ),
    System(
        name="tq, plain stubs",
        module="benchmarks.peers.tq_stubs",
        servers="three brokers",
        durability=FSYNC_MAJORITY,
        client="generated stubs on grpc.aio: each submit is a call to the leader",
        worker="",
        libraries={"tq": "tq"},
        lacks={"done": "submits only", "drain": "submits only"},
    ),
    System(
        name="NATS JetStream R3",
        module="benchmarks.peers.jetstream",
        servers="three servers, one work-queue stream with three replicas, file storage",
        durability="no fsync before the answer: written by a majority of three, fsync later "
        "(every 2 minutes by default)",
        client="nats-py, connected to the stream's leader",
        worker="nats-py, one process, pulls with up to 500 in hand, ack_sync for each task",
        programs={"nats-server": "-v"},
        libraries={"nats-py": "nats"},
        notes={
            "calls_1": AT_ONCE,
            "calls_10": AT_ONCE,
            "done": "a reply without acknowledgement, which the worker sends after its ack",
        },
    ),
    System(
        name="RabbitMQ quorum queue",
        module="benchmarks.peers.rabbitmq",
        servers="three servers, quorum queues with three members",
        durability=FSYNC_MAJORITY,
        client="aio-pika, publisher confirms, connected to the queue's leader",
        worker="aio-pika, one process, prefetch 200, manual acks",
        programs={"rabbitmq-server": "", "rabbitmqctl": None, "epmd": None},
        libraries={"aio-pika": "aio_pika"},
        user="rabbitmq",
        notes={
            "calls_1": AT_ONCE,
            "calls_10": AT_ONCE,
            "done": "a reply without confirmation, which the worker sends after its ack",
            "drain": "AMQP answers no ack: the queue's own count is what is measured",
        },
    ),
    System(
        name="etcd",
        module="benchmarks.peers.etcd",
        servers="three members",
        durability=FSYNC_MAJORITY,
        client="grpc.aio to the leader, requests as hand-built protobuf bytes; each task is a Put",
        worker="",
        programs={"etcd": "--version"},
        lacks={"done": NO_WORKER, "drain": NO_WORKER},
        notes={
            "calls_1": "a transaction of 100 puts",
            "calls_10": "transactions of 100 puts",
        },
    ),
    System(
        name="Dramatiq on Redis",
        module="benchmarks.peers.dramatiq_redis",
        servers=REDIS,
        durability=REDIS_ANSWER,
        client="Dramatiq, threads of one process",
        worker="dramatiq, its defaults: a process for each core, 8 threads each",
        programs={"redis-server": "--version"},
        libraries={"dramatiq": "dramatiq", "redis": "redis"},
        lacks={"calls_1": NO_CALL_OF_MANY, "calls_10": NO_CALL_OF_MANY},
    ),
    System(
        name="Celery on Redis",
        module="benchmarks.peers.celery_redis",
        servers=REDIS,
        durability=REDIS_ANSWER,
        client="Celery, threads of one process",
        worker="celery, its defaults: a process for each core; acks_late, prefetch 64 a process",
        programs={"redis-server": "--version"},
        libraries={"celery": "celery", "redis": "redis"},
        lacks={"calls_1": NO_CALL_OF_MANY, "calls_10": NO_CALL_OF_MANY},
    ),
    System(
        name="taskiq on Redis",
        module="benchmarks.peers.taskiq_redis",
        servers=REDIS,
        durability=REDIS_ANSWER,
        client="taskiq-redis, RedisStreamBroker",
        worker="taskiq, its defaults: two processes, 100 tasks each; acks after the task",
        programs={"redis-server": "--version"},
        libraries={"taskiq": "taskiq", "taskiq-redis": "taskiq_redis", "redis": "redis"},
        lacks={"calls_1": NO_CALL_OF_MANY, "calls_10": NO_CALL_OF_MANY},
        notes={"done": POLLED},
    ),
    System(
        name="Procrastinate on PostgreSQL",
        module="benchmarks.peers.procrastinate_postgres",
        servers="one server, its defaults: fsync and synchronous_commit on",
        durability="fdatasync on one server before the answer, no copy",
        client="Procrastinate, a pool of 64 connections",
        worker="procrastinate, one process, concurrency 100",
        programs={"postgres": "--version", "initdb": None},
        libraries={"procrastinate": "procrastinate", "psycopg": "psycopg"},
        user="postgres",
        notes={"done": POLLED},
    ),
)
