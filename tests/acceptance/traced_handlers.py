"""Handlers that record spans of their own."""

from __future__ import annotations

import logging

from opentelemetry import trace

from tq.v1.task_pb2 import TaskSpec
from tq_worker import PermanentError, Result, TaskContext, task

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


@task("resize")
async def resize(_payload: bytes, context: TaskContext) -> Result:
    with tracer.start_as_current_span("read picture"):
        logger.info("picture read")
    store = TaskSpec(task_id=f"{context.task_id}-store", queue=context.queue, type="store")
    return Result(b"small", submit=[store])


@task("store")
def store(_payload: bytes, _context: TaskContext) -> None:
    with tracer.start_as_current_span("write file"):
        logger.info("file written")


@task("broken")
def broken(_payload: bytes, _context: TaskContext) -> None:
    raise PermanentError("no such picture")
