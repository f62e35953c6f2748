"""What all share drags nothing along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tq_common

NEEDS_OPENTELEMETRY = "span_export"


@pytest.mark.slow
def test_the_shared_modules_import_nothing_but_the_standard_library() -> None:
    names = {path.stem for path in Path(tq_common.__path__[0]).glob("*.py")} - {"__init__"}
    modules = [f"tq_common.{name}" for name in sorted(names - {NEEDS_OPENTELEMETRY})]
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        f"import {', '.join(modules)}\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})\n"
    )

    imported = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()

    assert NEEDS_OPENTELEMETRY in names
    assert set(imported) - sys.stdlib_module_names == {"tq_common"}
