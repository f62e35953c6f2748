"""All scenarios: a module here, or in ``chaos.workloads``, lists some in ``SCENARIOS``.

Those of a workload stand beside it; here are the others.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType

from chaos import workloads
from chaos.scenario import Scenario
from chaos.workload import Workload


def all_scenarios() -> dict[str, Scenario]:
    """Find all scenarios, by name."""
    found: dict[str, Scenario] = {}
    for module in (*_modules(__name__, __path__), *_workload_modules()):
        for scenario in getattr(module, "SCENARIOS", ()):
            assert scenario.name not in found, f"two scenarios are named {scenario.name}"
            found[scenario.name] = scenario
    return found


def all_workloads() -> dict[str, type[Workload]]:
    """Find all workloads, by name."""
    found: dict[str, type[Workload]] = {}
    for module in _workload_modules():
        for each in vars(module).values():
            here = isinstance(each, type) and each.__module__ == module.__name__
            if here and issubclass(each, Workload) and "name" in vars(each):
                assert each.name not in found, f"two workloads are named {each.name}"
                found[each.name] = each
    return found


def _workload_modules() -> Iterator[ModuleType]:
    return _modules(workloads.__name__, workloads.__path__)


def _modules(package: str, path: Iterable[str]) -> Iterator[ModuleType]:
    """Import each module of a package, in the order of their names."""
    for name in sorted(module.name for module in pkgutil.iter_modules(path)):
        yield importlib.import_module(f"{package}.{name}")
