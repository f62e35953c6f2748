"""Runs the journal's writes and fsyncs: in a thread, or as a simulation decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

Job = Callable[[], None]
Done = Callable[[BaseException | None], None]


class Syncer(Protocol):
    """Runs one job at a time, off the loop, and reports back on it."""

    def run(self, job: Job, done: Done) -> None:
        """Run ``job``, then ``done`` on the loop with what it raised. Not while another runs."""

    def finish(self) -> None:
        """Block until the job that runs, if any, has ended and its ``done`` has been called."""


class ThreadSyncer:
    """A thread of its own beside the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tq-sync")
        self._running: tuple[Future[None], Done] | None = None

    def run(self, job: Job, done: Done) -> None:
        if self._running is not None:
            raise RuntimeError("a job is running")
        future = self._executor.submit(job)
        self._running = (future, done)
        future.add_done_callback(self._ended)

    def finish(self) -> None:
        if self._running is not None:
            future, _ = self._running
            future.exception()
            self._report(future)

    def close(self) -> None:
        """Finish, and end the thread."""
        self.finish()
        self._executor.shutdown()

    def _ended(self, future: Future[None]) -> None:
        self._loop.call_soon_threadsafe(self._report, future)

    def _report(self, future: Future[None]) -> None:
        # `finish` may have reported before the loop ran this.
        if self._running is not None and self._running[0] is future:
            _, done = self._running
            self._running = None
            done(future.exception())


class InlineSyncer:
    """Does the job at once, in the caller's thread."""

    def run(self, job: Job, done: Done) -> None:
        try:
            job()
        except OSError as error:
            done(error)
        else:
            done(None)

    def finish(self) -> None:
        """Do nothing: no job is ever running."""
