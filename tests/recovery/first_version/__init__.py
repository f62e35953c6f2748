"""What is kept of the first version, and how it is run."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
DATA = FOLDER / "data.tar.xz"
"""The data directories n1, n2 and n3 of a cluster of it; make.py says what is in them."""
SOFTWARE = FOLDER / "software.tar.xz"
PACKAGES = ("tq", "tq_cluster")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack one of the archives, and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder


def environment_of(software: Path) -> Mapping[str, str]:
    """What makes `python -m tq_cluster` run the software in a folder, wherever it is started."""
    return {"PYTHONPATH": str(software), "PYTHONSAFEPATH": "1"}
