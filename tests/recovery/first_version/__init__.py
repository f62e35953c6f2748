"""The stored files of the first version, and functions to run it."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
DATA = FOLDER / "data.tar.xz"
"""The data directories n1, n2 and n3 of a cluster of it; make.py describes their content."""
SOFTWARE = FOLDER / "software.tar.xz"
PACKAGES = ("tq", "tq_cluster")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack one of the archives, and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as content:
        # Python before 3.11.4 has no filters.
        content.extraction_filter = getattr(tarfile, "data_filter", None)
        content.extractall(folder)  # noqa: S202 - an archive of our own
    return folder


def environment_of(software: Path) -> Mapping[str, str]:
    """The environment in which `python -m tq_cluster` runs the software of a folder."""
    return {"PYTHONPATH": str(software), "PYTHONSAFEPATH": "1"}
