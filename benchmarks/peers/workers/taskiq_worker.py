"""What `taskiq` imports."""

from __future__ import annotations

import os

from benchmarks.peers.redis import URL
from benchmarks.peers.workers.taskiq_app import QUEUE, make

broker, task = make(os.environ[URL], os.environ[QUEUE])
