"""`--watch`: repeats a command, on one screen or as a stream."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tq_admin.failures import Failure
from tq_admin.keys import Keys
from tq_admin.output import Format, Output, Screenful
from tq_admin.session import Session
from tq_common.visible import visible

EVERY_MIN_S = 0.2


class QuitError(Exception):
    """The user pressed q in the middle of a command."""


def watch(session: Session, every_s: float, title: str, show: Callable[[Session], None]) -> None:
    """Repeat ``show`` until q or Ctrl-C.

    A failure is shown but does not end it: the cluster is watched because it may be in trouble.
    """
    try:
        if session.output.format is Format.TABLE and sys.stdout.isatty():
            _on_screen(session, every_s, title, show)
        else:
            _as_stream(session, every_s, show)
    except KeyboardInterrupt:
        return


def _on_screen(
    session: Session, every_s: float, title: str, show: Callable[[Session], None]
) -> None:
    console = Console(highlight=False)
    last: list[RenderableType] = []
    with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        live.update(Group(heading(title, every_s), Text("asking ...", style="dim")), refresh=True)
        while True:
            started_s = time.monotonic()
            page = Screenful()
            trouble: list[RenderableType] = []
            try:
                show(dataclasses.replace(session, output=page, pause=partial(_pause, keys)))
            except QuitError:
                return
            except Failure as failure:
                trouble = [
                    Text(visible(failure.message), style="bold red"),
                    Text(visible(failure.advice)),
                ]
            if page.shown:
                last = page.shown
            live.update(Group(heading(title, every_s), *last, *trouble), refresh=True)
            if keys.quit_within(max(0.05, started_s + every_s - time.monotonic())):
                return


def _pause(keys: Keys, seconds: float) -> None:
    if keys.quit_within(seconds):
        raise QuitError


def _as_stream(session: Session, every_s: float, show: Callable[[Session], None]) -> None:
    """Print one reading after the other; as JSON, one per line."""
    stream = Output(session.output.format, stream=True)
    while True:
        started_s = time.monotonic()
        try:
            show(dataclasses.replace(session, output=stream))
        except Failure as failure:
            stream.remark(f"tq-admin: {failure.message}")
        sys.stdout.flush()
        time.sleep(max(0.0, started_s + every_s - time.monotonic()))


def heading(title: str, every_s: float) -> RenderableType:
    """The first line of a screen: what it shows, how often and when."""
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True)
    line.add_column(justify="right", no_wrap=True)
    now = f"{datetime.now(UTC):%H:%M:%S}Z"
    narrow = shutil.get_terminal_size().columns < len(title) + 40
    right = now if narrow else f"every {every_s:g} s, q quits   {now}"
    line.add_row(Text(title, style="bold"), Text(right, style="dim"))
    return line
