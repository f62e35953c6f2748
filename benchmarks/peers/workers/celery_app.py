"""The application of Celery, for the submitter and for its worker."""

from __future__ import annotations

from typing import Any

from celery import Celery

from benchmarks.peers.session import IN_FLIGHT

NAME = "noop"
PREFETCH = 64


def noop(payload: str) -> str:
    """Return at once."""
    del payload
    return ""


def make(url: str) -> Any:  # noqa: ANN401  # untyped library
    """Make the application; a task is acknowledged after it has run."""
    app = Celery("bench", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=PREFETCH,
        broker_pool_limit=IN_FLIGHT,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"socket_timeout": 30},
    )
    app.task(name=NAME)(noop)
    app.finalize()
    return app
