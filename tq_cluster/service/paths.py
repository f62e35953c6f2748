"""Fields of a request by their path from the request down, such as ``tasks.queue``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tq.v1 import errors_pb2
from tq_cluster.core.model.operations import Refused
from tq_cluster.service.wire import RefusedRequestError

VALUES_MAX: Final = 100_000
"""How often a path may occur in a request: a report of 1,000 completions, each with 100 tasks.
Small items of a request are parsed before the number of fields inside them is known.
"""
STEP_VALUES: Final = 1_000
"""How many values are looked at before the event loop gets a turn: about 1 ms."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Step:
    """One field of a path."""

    name: str
    repeated: bool
    presence: bool
    """Whether a message distinguishes an absent field from one with its default."""

    @classmethod
    def of(cls, field: FieldDescriptor) -> Step:
        """Describe a field."""
        return cls(field.name, field.is_repeated, field.has_presence)


@dataclass(frozen=True, slots=True)
class Path:
    """A field of a request, or of the messages in it."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, request: Descriptor, field: str, *, names: bool = False) -> Path:
        """Read a path; ValueError if there is no such field, or it is no string and ``names``."""
        steps: list[Step] = []
        message: Descriptor | None = request
        found: FieldDescriptor | None = None
        for name in field.split("."):
            found = message.fields_by_name.get(name) if message is not None else None
            if found is None:
                raise ValueError(f"{request.full_name} has no field {field}")
            steps.append(Step.of(found))
            message = found.message_type
        if names and (found is None or found.type != FieldDescriptor.TYPE_STRING):
            raise ValueError(f"{field} of {request.full_name} is no string")
        return cls(tuple(steps))

    def __str__(self) -> str:
        return ".".join(step.name for step in self.steps)

    def values(self, request: Any) -> Iterator[Any]:  # noqa: ANN401  # any method's request
        """Yield the field's values, in the order of the request."""
        last = self.steps[-1]
        for _, holder in _holders(request, self.steps[:-1]):
            value = getattr(holder, last.name)
            if last.repeated:
                yield from value
            else:
                yield value

    def places(self, request: Any) -> Iterator[str | None]:  # noqa: ANN401  # as above
        """Yield for each message that may have the field: its full name if set, else None."""
        last = self.steps[-1]
        for prefix, holder in _holders(request, self.steps[:-1]):
            is_set = (
                holder.HasField(last.name) if last.presence else bool(getattr(holder, last.name))
            )
            yield f"{prefix}{last.name}" if is_set else None


async def in_steps(path: Path, items: Iterable[Item]) -> AsyncIterator[Item]:
    """Yield what was found at a path, with the event loop's other work in between.

    RefusedRequestError for more than ``VALUES_MAX``.
    """
    for count, item in enumerate(items, 1):
        if count > VALUES_MAX:
            raise RefusedRequestError(
                Refused(
                    reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT,
                    message=f"{path} occurs over {VALUES_MAX:,} times in the request",
                    field=str(path),
                    metadata={"limit": str(VALUES_MAX), "actual": f"over {VALUES_MAX}"},
                )
            )
        if not count % STEP_VALUES:
            await asyncio.sleep(0)
        yield item


def _holders(message: Any, steps: tuple[Step, ...], prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401  # as above
    """Yield the messages at the end of a path, each with its name and a dot."""
    if not steps:
        yield prefix, message
        return
    step, rest = steps[0], steps[1:]
    if step.repeated:
        for index, item in enumerate(getattr(message, step.name)):
            yield from _holders(item, rest, f"{prefix}{step.name}[{index}].")
    elif message.HasField(step.name):
        yield from _holders(getattr(message, step.name), rest, f"{prefix}{step.name}.")
