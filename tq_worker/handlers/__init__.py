"""The handlers that come with tq, to try, test and measure it.

`tq-worker run --handlers tq_worker.handlers` has all of them.
"""

from tq_worker.handlers import compute, echo, fail, sleep

__all__ = ["compute", "echo", "fail", "sleep"]
