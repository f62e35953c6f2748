"""Build hook: a wheel or an editable install carries the package generated from `proto/`."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GenerateProtos(BuildHookInterface[Any]):
    """Run scripts/generate_protos.py before anything is packed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatch's
        if self.target_name == "wheel":
            script = Path(self.root) / "scripts" / "generate_protos.py"
            runpy.run_path(str(script))["generate"]()
