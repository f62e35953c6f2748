"""The application of Procrastinate, for the submitter and for its worker."""

from __future__ import annotations

from typing import Any

from procrastinate import App, PsycopgConnector

from benchmarks.peers.session import IN_FLIGHT

NAME = "noop"


async def noop(payload: str) -> None:
    """Return at once."""
    del payload


def make(url: str) -> Any:  # noqa: ANN401  # untyped library
    """Make the application, with a connection for each submit in flight."""
    app = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=IN_FLIGHT))
    app.task(name=NAME)(noop)
    return app
