"""Which types of tasks are claimed together, because they share slots or a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tq.internal.v1.worker_child_pb2 import Handler
from tq_common.limits import CLAIM_TYPES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimGroup:
    """The types that one loop of claims asks for."""

    types: tuple[str, ...] = ()
    """Empty: all types except ``except_types``, even those without a handler."""
    except_types: tuple[str, ...] = ()
    """Only used if there are more types than a claim can name."""
    solo: bool = False
    """Whether each task has a process to itself."""
    limit: int | None = None
    """How many tasks of its only type run at a time, at most."""


def claim_groups(handlers: Mapping[str, Handler], limits: Mapping[str, int]) -> list[ClaimGroup]:
    """Split the handlers' types into groups; ``limits`` override the handlers' own limits.

    Each type with a limit has its own group, so that a claim never returns more of its tasks than
    may run. The types that run in processes of their own share a group, and so do all the others.
    Types without a handler are left to other workers.
    """
    limited = _limited(handlers, limits)
    solo = sorted(name for name, each in handlers.items() if each.solo and name not in limited)
    plain = sorted(set(handlers).difference(limited, solo))
    found = []
    if len(plain) > CLAIM_TYPES_MAX:
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
    """Return what is wrong with these handlers and limits, if anything is."""
    unknown = sorted(set(limits).difference(handlers))
    if unknown:
        known = ", ".join(sorted(handlers))
        return f"--limit {unknown[0]}: no handler for this type; there are: {known}"
    limited = _limited(handlers, limits)
    apart = [name for name, each in handlers.items() if each.solo or name in limited]
    if len(apart) > CLAIM_TYPES_MAX:
        return (
            f"{len(apart)} types have a limit or a process of their own; at most {CLAIM_TYPES_MAX}"
            " can: run some of them in another worker"
        )
    return None
