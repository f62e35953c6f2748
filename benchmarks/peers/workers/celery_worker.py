"""What `celery` imports."""

from __future__ import annotations

import os

from benchmarks.peers.redis import URL
from benchmarks.peers.workers.celery_app import make

app = make(os.environ[URL])
