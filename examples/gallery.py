"""Tasks that wait for others: `tq-worker run --handlers gallery --queues gallery` runs them.

Any of them may run twice, as always: each writes the same files again.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tq_worker import PermanentError, task

PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")
"""How an image of 24 bits a pixel begins: https://netpbm.sourceforge.net/doc/ppm.html."""


@task("shrink", queue="gallery")
def shrink(image: Path, work: Path, factor: int = 4) -> str:
    """Write a small copy of an image to the work folder; returns its name."""
    data = image.read_bytes()
    header = PPM.match(data)
    if header is None:
        raise PermanentError(f"{image.name}: not an image of 24 bits a pixel")
    width, height = map(int, header.groups())
    pixels = data[header.end() :]
    rows = [pixels[width * 3 * row :][: width * 3] for row in range(0, height, factor)]
    columns = range(0, width, factor)
    small = b"".join(row[3 * column :][:3] for row in rows for column in columns)
    work.mkdir(parents=True, exist_ok=True)
    (work / image.name).write_bytes(b"P6\n%d %d\n255\n" % (len(columns), len(rows)) + small)
    return image.name


@task("build-index", queue="gallery")
def build_index(work: Path, album: Path) -> int:
    """Put the small copies into the album, with a list of them; returns how many there are."""
    found = sorted(work.glob("*.ppm"))
    album.mkdir(parents=True, exist_ok=True)
    for each in found:
        shutil.copy(each, album)
    (album / "index.txt").write_text("".join(f"{each.name}\n" for each in found))
    return len(found)


@task("clean-up", queue="gallery")
def clean_up(work: Path) -> None:
    """Remove the work folder."""
    shutil.rmtree(work, ignore_errors=True)
