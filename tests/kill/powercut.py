"""A power cut, modelled: journal bytes that were never fsynced are gone.

The state needs no model here: the newest commit is undone whenever a broker starts, after a SIGKILL
as after a power cut, and tests/storage/test_settled.py tears it in every way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

ACCOUNTS_VARIABLE = "POWERCUT_ACCOUNTS"
"""The folder in which the brokers' disks keep account of what is durable."""
LIE_VARIABLE = "POWERCUT_LIE"
"""The file after whose creation a lying disk syncs nothing."""
SEGMENTS = "[0-9]" * 20 + ".log"


def write_account(path: Path, durable_bytes: int) -> None:
    """Note that so many bytes of this file are durable."""
    account = Path(os.environ[ACCOUNTS_VARIABLE]) / str(path).replace("/", "+")
    scratch = account.with_suffix(".new")
    scratch.write_text(json.dumps({"path": str(path), "durable_bytes": durable_bytes}))
    scratch.replace(account.with_suffix(".json"))


def lose_unsynced(accounts: Path, data_dirs: Iterable[Path]) -> int:
    """Cut every journal file below ``data_dirs`` to its durable part; return the bytes lost."""
    durable = {
        entry["path"]: entry["durable_bytes"]
        for entry in (json.loads(path.read_text()) for path in accounts.glob("*.json"))
    }
    gone = 0
    for data_dir in data_dirs:
        for path in data_dir.rglob(SEGMENTS):
            kept = durable.get(str(path))
            gone += path.stat().st_size - (kept or 0)
            if kept is None:
                path.unlink()
            else:
                os.truncate(path, kept)
    return gone
