"""`tq-admin monitor`: the whole cluster on one screen."""

from __future__ import annotations

import sys
from typing import Annotated

from rich.console import Console
from rich.live import Live

from tq_admin.failures import ExitCode, Failure
from tq_admin.keys import Keys
from tq_admin.monitor_screen import draw
from tq_admin.observer import Observer
from tq_admin.output import Format
from tq_admin.session import Session
from tq_admin.watch import EVERY_MIN_S
from tq_process.span_option import span_option

REDRAW_S = 0.25


def monitor(
    session: Session,
    every: Annotated[
        float,
        span_option(least_s=EVERY_MIN_S, default="1s", help="How often the cluster is asked."),
    ] = 1.0,
) -> None:
    """Watch nodes, queues, rates, workers and dead letters on one screen; q ends it.

    Goes on with nodes down and without a leader, showing what can still be known.
    """
    if session.output.format is not Format.TABLE or not sys.stdout.isatty():
        raise Failure(
            "the monitor is a screen for people and needs a terminal",
            "For programs: tq-admin stats --output json --watch 2",
            ExitCode.USAGE,
        )
    observer = Observer(session.addresses, every)
    console = Console(highlight=False)
    try:
        with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            observer.start()
            while True:
                live.update(draw(observer.latest, console.size), refresh=True)
                if keys.quit_within(REDRAW_S):
                    return
    except KeyboardInterrupt:
        return
    finally:
        observer.close()
