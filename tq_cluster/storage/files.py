"""Small files that are replaced whole and checked when read; fsync for files and folders."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tq_cluster.errors import StartError

RESTORE: Final = "restore this node from its peers: move its data directory away and start it empty"


def sync_file(path: Path) -> None:
    """Return once the file's bytes survive a power cut."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Return once all files created, renamed and removed in it stay so after a power cut."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def make_folder(path: Path) -> None:
    """Create the folder and its parents, if they are missing. Durable on return."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def write_record(path: Path, fields: Mapping[str, Any]) -> None:
    """Replace the file atomically with ``fields``, as readable JSON. Durable on return."""
    checked = {**fields, "crc32": _crc(fields)}
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(checked, indent=1) + "\n", encoding="utf-8")
    sync_file(partial)
    partial.replace(path)
    sync_folder(path.parent)


def read_record(path: Path, *, format_known: int) -> dict[str, Any] | None:
    """Return the fields from ``write_record``; None without a file, StartError if it is damaged."""
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise StartError(f"{path} is damaged: {error}; {RESTORE}") from error
    if not isinstance(fields, dict) or fields.pop("crc32", None) != _crc(fields):
        raise StartError(
            f"{path} is damaged, or was edited: its checksum does not match; {RESTORE}"
        )
    if fields.get("format") != format_known:
        raise StartError(
            f"{path} has format {fields.get('format')}, this software knows {format_known}: start a"
            " newer tq-cluster on it"
        )
    return fields


def _crc(fields: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _sync(path: Path, flags: int) -> None:
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)
