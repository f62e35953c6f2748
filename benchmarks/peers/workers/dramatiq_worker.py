"""What `dramatiq` imports."""

from __future__ import annotations

import os

from benchmarks.peers.redis import URL
from benchmarks.peers.workers.dramatiq_app import make

broker, actors = make(os.environ[URL])
