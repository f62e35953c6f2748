"""All scenarios: each module here lists some in ``SCENARIOS``."""

from __future__ import annotations

import importlib
import pkgutil

from chaos.scenario import Scenario


def all_scenarios() -> dict[str, Scenario]:
    """Find all scenarios, by name."""
    found: dict[str, Scenario] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        for scenario in importlib.import_module(f"{__name__}.{module.name}").SCENARIOS:
            assert scenario.name not in found, f"two scenarios are named {scenario.name}"
            found[scenario.name] = scenario
    return found
