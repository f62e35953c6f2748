"""Fuzz the raft port, guided by coverage: ``python -m tests.fuzz --runs 1000000``.

Needs atheris (``pip install atheris``), which is in no lock file: it has no build for every Python
that this project takes. Without it ``--blind`` runs the mutator that the tests use. It begins with
the inputs of corpus.txt, and writes inputs that take new paths to the folder. A crash ends it, and
leaves its input behind.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz import mutating


def main() -> None:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("fuzz-inputs"), help="of what it finds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blind", action="store_true", help="without atheris, not guided")
    options = parser.parse_args()
    if options.blind:
        _blindly(options.runs, options.seed)
    else:
        _guided(options.runs, options.seed, options.folder)


def _blindly(runs: int, seed: int) -> None:
    from tests.fuzz.port import play  # noqa: PLC0415 - atheris instruments it before it is imported

    logging.disable(logging.CRITICAL)
    began_s, slowest_s = time.monotonic(), 0.0
    for data in mutating.inputs(mutating.corpus(), runs, random.Random(seed)):
        started_s = time.monotonic()
        try:
            play(data)
        except BaseException:
            sys.stderr.write(f"input: {data.hex()}\n")
            raise
        slowest_s = max(slowest_s, time.monotonic() - started_s)
    spent_s = time.monotonic() - began_s
    slowest_ms = slowest_s * 1000
    sys.stdout.write(f"{runs} inputs in {spent_s:.0f} s, the slowest {slowest_ms:.1f} ms\n")


def _guided(runs: int, seed: int, folder: Path) -> None:
    atheris: Any = importlib.import_module("atheris")  # may not be installed
    with atheris.instrument_imports(include=["tq_cluster.raft", "tests.fuzz.port"]):
        from tests.fuzz.port import play  # noqa: PLC0415 - as above

    folder.mkdir(exist_ok=True)
    for number, data in enumerate(mutating.corpus()):
        (folder / f"kept-{number:03}").write_bytes(data)
    logging.disable(logging.CRITICAL)
    arguments = [
        sys.argv[0],
        str(folder),
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_len={mutating.INPUT_BYTES_MAX}",
        "-timeout=5",
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, play)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
