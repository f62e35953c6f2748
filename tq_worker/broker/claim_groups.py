"""Which types of tasks are claimed together, as they have their slots or their limit in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tq.internal.v1.worker_child_pb2 import Handler

TYPES_MAX = 64
"""A claim names at most so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimGroup:
    """What one loop of claims asks for."""

    types: tuple[str, ...] = ()
    """Empty: all but ``except_types``, those included that no handler is known for."""
    except_types: tuple[str, ...] = ()
    """Only where there are more types than a claim can name."""
    solo: bool = False
    """They run in processes of their own."""
    limit: int | None = None
    """So many of its one type run at a time, at most."""


def claim_groups(handlers: Mapping[str, Handler], limits: Mapping[str, int]) -> list[ClaimGroup]:
    """Split the handlers' types into what is claimed by itself; ``limits`` go before their own.

    Types with a limit each have a loop of their own, so that a claim never brings more of one than
    may run; those that run in processes of their own have one; and one has all the rest. What
    there is no handler for is left to workers that have one.
    """
    limited = _limited(handlers, limits)
    solo = sorted(name for name, each in handlers.items() if each.solo and name not in limited)
    plain = sorted(set(handlers).difference(limited, solo))
    found = []
    if len(plain) > TYPES_MAX:
        found.append(ClaimGroup(except_types=tuple(sorted([*limited, *solo]))))
    elif plain:
        found.append(ClaimGroup(types=tuple(plain)))
    if solo:
        found.append(ClaimGroup(types=tuple(solo), solo=True))
    found += [
        ClaimGroup(types=(name,), solo=handlers[name].solo, limit=limit)
        for name, limit in sorted(limited.items())
    ]
    return found


def _limited(handlers: Mapping[str, Handler], limits: Mapping[str, int]) -> dict[str, int]:
    limit_of = {name: limits.get(name, handler.limit) for name, handler in handlers.items()}
    return {name: limit for name, limit in limit_of.items() if limit}


def problem(handlers: Mapping[str, Handler], limits: Mapping[str, int]) -> str | None:
    """Say what stands against these, if anything does."""
    unknown = sorted(set(limits).difference(handlers))
    if unknown:
        known = ", ".join(sorted(handlers))
        return f"--limit {unknown[0]}: no handler for this type; there are: {known}"
    limited = _limited(handlers, limits)
    apart = [name for name, each in handlers.items() if each.solo or name in limited]
    if len(apart) > TYPES_MAX:
        return (
            f"{len(apart)} types have a limit or a process of their own; at most {TYPES_MAX} can: "
            "run some of them in another worker"
        )
    return None
