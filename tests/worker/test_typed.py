from __future__ import annotations

import asyncio
import math
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tests.worker.conftest import ROOT, StartWorker
from tests.worker.fake_broker import FakeBroker
from tests.worker.task_service import FakeTaskService
from tests.worker.typed_handlers import add, measure, measure_async, place, wrong
from tq.v1.task_pb2 import IfExists
from tq.v1.worker_service_pb2 import ClaimedTask
from tq_client import After, AsyncClient, CancelReason, Client
from tq_worker import Handle, Result, TaskContext, TaskFailedError, TypedTask, UnfitTaskError, task
from tq_worker.api import registry
from tq_worker.api.signatures import Signature
from tq_worker.wire import task_reports

EXAMPLES = ROOT / "examples"
TYPED = ("tests.worker.typed_handlers",)


class Order(BaseModel):
    number: int
    lines: list[str]


@dataclass
class Point:
    x: float
    y: float = 0.0


@pytest.fixture
async def tasks(broker: FakeBroker) -> AsyncIterator[FakeTaskService]:
    fake = FakeTaskService(broker)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def client(tasks: FakeTaskService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(tasks.address) as client:
        yield client


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> registry.Registry:
    """Handlers of a test's own."""
    fresh = registry.Registry()
    monkeypatch.setattr(registry, "HANDLERS", fresh)
    return fresh


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=EXAMPLES,
        env={"PYTHONPATH": str(ROOT), "MYPYPATH": str(EXAMPLES), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


async def test_the_example_prints_what_its_handlers_return(
    tasks: FakeTaskService, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{EXAMPLES}")
    await start_worker(["images"], queues=["images"])

    ended = await asyncio.to_thread(run, "submit_images.py", TQ_ADDRESS=tasks.address)

    assert (ended.stdout.splitlines(), ended.stderr) == (
        [
            "Thumbnail(path='a.200.png', width=200, height=150)",
            "attempt 1: a.200.png, b.50.png, c.50.png",
        ],
        "",
    )


def an_image(width: int, height: int) -> bytes:
    """A picture in which each pixel is its own place."""
    pixels = bytes(part for y in range(height) for x in range(width) for part in (x, y, 0))
    return b"P6\n%d %d\n255\n" % (width, height) + pixels


async def test_the_example_of_tasks_that_wait_makes_its_album_and_cleans_up(
    tasks: FakeTaskService,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{EXAMPLES}")
    images = tmp_path / "images"
    images.mkdir()
    for name in ("b.ppm", "a.ppm"):
        (images / name).write_bytes(an_image(10, 6))
    await start_worker(["gallery"], queues=["gallery"])

    async def submit(album: str) -> list[str]:
        command = ("submit_gallery.py", str(images), str(tmp_path / album))
        ended = await asyncio.to_thread(run, *command, TQ_ADDRESS=tasks.address)
        assert ended.stderr == ""
        return ended.stdout.splitlines()

    made = await submit("album")
    (images / "c.ppm").write_bytes(b"a letter")
    failed = await submit("other")

    assert made == ["2 images in album", "album.work is removed"]
    assert (tmp_path / "album" / "index.txt").read_text() == "a.ppm\nb.ppm\n"
    small = (tmp_path / "album" / "a.ppm").read_bytes()
    assert small == b"P6\n3 2\n255\n" + bytes(
        [0, 0, 0, 4, 0, 0, 8, 0, 0, 0, 4, 0, 4, 4, 0, 8, 4, 0]
    )
    assert re.fullmatch(
        r"no album: task \w+-3 \(build-index\) is FAILED: it never ran, as it depends on the"
        r" success of task \w+-2, which ended otherwise",
        failed[0],
    ), failed
    assert failed[1:] == ["other.work is removed"]
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_mypy_knows_what_submit_takes_and_what_comes_back(tmp_path: Path) -> None:
    calls = tmp_path / "calls.py"
    calls.write_text(
        "from images import album, resize\n"
        "from tq_client import After\n"
        "resize.submit('a.png', size='large')\n"
        "resize.submit('a.png', sise=200)\n"
        "resize.map(['a.png'], size='large')\n"
        "text: str = resize.submit('a.png').result()\n"
        "album.submit([], context=None)\n"
        "resize.options(depends_on=[resize.submit('a.png'), 'id', 0, After('id', 'ended')])\n"
        "resize.options(depends_on=[After('id', 'done')])\n"
        "resize.options(depends_on=[1.5])\n"
    )

    told = run(
        *("-m", "mypy", "--strict", "--no-error-summary", f"--cache-dir={tmp_path}/cache"),
        *("images.py", "submit_images.py", "gallery.py", "submit_gallery.py", str(calls)),
    )

    said = [line.split("error: ")[1] for line in told.stdout.splitlines() if "error: " in line]
    assert [line for line in told.stdout.splitlines() if not line.startswith(str(calls))] == []
    wrong_size = 'of "TypedTask" has incompatible type "str"; expected "int"  [arg-type]'
    unexpected = 'for "submit" of "TypedTask"  [call-arg]'
    assert said == [
        f'Argument "size" to "submit" {wrong_size}',
        f'Unexpected keyword argument "sise" {unexpected}',
        f'Argument "size" to "map" {wrong_size}',
        said[3],
        f'Unexpected keyword argument "context" {unexpected}',
        *said[5:],
    ], told.stdout + told.stderr
    assert 'expression has type "Thumbnail", variable has type "str"' in said[3]
    words = re.compile(r'has incompatible type "([^"]+)"; expected "(.+)"  \[')
    assert [found.groups() for each in said[5:] if (found := words.search(each))] == [
        ("Literal['done']", "Literal['completed', 'not_completed', 'ended']"),
        ("float", "str | int | HasTaskId | After"),
    ], told.stdout


async def test_a_call_becomes_json_by_name_and_its_result_comes_back_typed(
    broker: FakeBroker, client: AsyncClient, start_worker: StartWorker
) -> None:
    await start_worker(TYPED)

    handle: Handle[int] = await add.options(client=client).submit_async(2, b=40)

    assert await handle.result_async() == 42
    spec = broker.tasks[handle.task_id].spec
    assert (spec.queue, spec.type, spec.payload) == ("q", "add", b'{"a":2,"b":40}')
    assert (spec.content_type, spec.max_attempts) == ("application/json", 2)
    assert broker.reports[0].complete.result == b"42"
    assert broker.reports[0].complete.content_type == "application/json"


async def test_a_function_that_takes_the_context_first_is_given_it(
    client: AsyncClient, start_worker: StartWorker
) -> None:
    await start_worker(TYPED)

    handles = await place.options(client=client).map_async([b"\xff\x00", b""])

    assert [await each.result_async() for each in handles] == [("q", b"\xff\x00"), ("q", b"")]


async def test_a_handle_says_why_there_is_no_result(
    broker: FakeBroker, client: AsyncClient, start_worker: StartWorker
) -> None:
    await start_worker(TYPED)

    handle = await add.options(client=client).submit_async(-5)

    with pytest.raises(
        TaskFailedError, match=r"\(add\) is FAILED: OSError: attempt with -5"
    ) as told:
        await handle.result_async()
    assert "typed_handlers.py" in told.value.task.last_error
    assert "tq_worker" not in told.value.task.last_error
    assert broker.tasks[handle.task_id].ends == ["failed", "failed"]


async def test_a_payload_that_does_not_fit_the_function_is_left_to_other_versions_of_it(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    await start_worker(TYPED)

    [sent] = await broker.submit("add", b'{"a": "two", "c": 1}', max_attempts=1)
    task = broker.tasks[sent]
    await broker.until(lambda: task.ends == ["unfit"], "its end")

    assert task.error.startswith("UnfitTaskError: the payload does not fit the handler: 2 ")
    assert broker.reports[0].release.give_up_after.ToSeconds() == 600
    assert broker.reports[0].release.pause.ToSeconds() == 15
    await broker.offer(sent)
    await broker.until(lambda: task.ends == ["unfit", "unfit"], "its next end")
    assert task.attempts == 0


async def test_a_result_of_another_type_than_promised_fails_the_attempt(
    client: AsyncClient, start_worker: StartWorker
) -> None:
    await start_worker(TYPED)

    handle = await wrong.options(client=client).submit_async()

    with pytest.raises(TaskFailedError, match=r"Expected `int`"):
        await handle.result_async()


async def test_what_a_typed_function_submits_goes_with_its_completion(
    broker: FakeBroker, client: AsyncClient, start_worker: StartWorker
) -> None:
    await start_worker(TYPED)

    handle = await measure.options(client=client).submit_async("four")
    length: int = await handle.result_async()

    assert length == 4
    [completion] = [each.complete for each in broker.reports]
    assert [(each.type, each.payload) for each in completion.submit] == [
        ("add", b'{"a":4}'),
        ("add", b'{"a":1}'),
    ]
    assert completion.submit[1].task_id == "own"
    assert completion.submit[1].if_exists == IfExists.IF_EXISTS_KEEP
    failed = await measure.options(client=client).submit_async("fail")
    with pytest.raises(TaskFailedError, match="after all"):
        await failed.result_async()
    assert not broker.reports[-1].complete.submit
    either = measure_async.options(client=client)
    lengths = [await each.result_async() for each in await either.map_async(["", "six"])]
    assert lengths == [0, 3]


def test_a_result_of_nothing_more_is_one_of_bytes() -> None:
    def bare(n: int) -> Result:
        return Result(bytes(n))

    bare.__annotations__ |= {"n": int, "return": Result}

    assert Signature(bare).decode_result(Signature(bare).encode_result(b"\xff")) == b"\xff"


def test_more_tasks_than_a_completion_submits_are_refused() -> None:
    context = TaskContext(ClaimedTask(), 0.0)
    context.submit_on_success(*[add.spec(1)] * 99)

    with pytest.raises(ValueError, match="at most 100"):
        context.submit_on_success(add.spec(1), add.spec(2))

    context.submit_on_success(add.spec(1))
    report = task_reports.returned("t", 7, Result(b"", submit=[add.spec(1)]), context.submits)
    assert report.fail.permanent
    assert "it submits 101 tasks; at most 100 are taken" in report.fail.error


async def test_a_task_waits_for_those_whose_handles_it_is_given(
    broker: FakeBroker, client: AsyncClient, start_worker: StartWorker
) -> None:
    await start_worker(TYPED)
    mine = add.options(client=client)

    first = await mine.submit_async(1)
    others = await mine.map_async([2, 3])
    last = await mine.options(depends_on=[first, After(others[0], "ended")]).submit_async(4)
    never = await mine.options(depends_on=[After(first, "not_completed")]).submit_async(5)

    assert await last.result_async() == 5
    waited_for = [After.of(each) for each in broker.tasks[last.task_id].spec.depends_on]
    assert waited_for == [After(first.task_id), After(others[0].task_id, "ended")]
    with pytest.raises(
        TaskFailedError,
        match=rf"is CANCELLED: it was skipped, as it depends on .+ of task {first.task_id}, which",
    ) as refused:
        await never.result_async()
    assert refused.value.task.cancel_reason == CancelReason.SKIPPED
    assert broker.tasks[never.task_id].ends == []


async def test_a_task_that_failed_with_another_names_it(
    client: AsyncClient, start_worker: StartWorker
) -> None:
    await start_worker(TYPED)
    failing = await add.options(client=client, retries=0).submit_async(-1)
    behind = await add.options(client=client, depends_on=[failing]).submit_async(1)

    with pytest.raises(
        TaskFailedError,
        match=rf"\(add\) is FAILED: it never ran, as it depends on .+ of task {failing.task_id}",
    ) as refused:
        await behind.result_async()

    assert refused.value.task.ended_by == failing.task_id


def test_positions_in_a_completion_count_in_the_list_in_which_they_are_given() -> None:
    claimed = ClaimedTask()
    claimed.spec.task_id = "own"
    context = TaskContext(claimed, 0.0)
    behind = add.options(depends_on=[0])

    context.submit_on_success(add.spec(1), behind.spec(2))
    context.submit_on_success(add.spec(3), behind.spec(4))
    returned = Result(b"", submit=[add.spec(5), behind.spec(6), behind.spec(7)])
    returned.submit[2].depends_on.extend(add.options(depends_on=[context]).spec(8).depends_on)
    report = task_reports.returned("own", 7, returned, context.submits)

    found = [[After.of(one).task for one in each.depends_on] for each in report.complete.submit]
    assert found == [[], [0], [], [2], [], [4], [4, "own"]]
    assert [After.of(one).task for one in returned.submit[1].depends_on] == [0]


async def test_a_blocking_client_may_be_given(
    tasks: FakeTaskService, start_worker: StartWorker
) -> None:
    await start_worker(TYPED)

    def program() -> list[int]:
        with Client(tasks.address) as client:
            mine = add.options(client=client)
            return [handle.result() for handle in [mine.submit(1), *mine.map([1, 2], b=7)]]

    assert await asyncio.to_thread(program) == [2, 8, 9]


async def test_a_client_of_the_wrong_kind_is_refused_with_what_to_use(client: AsyncClient) -> None:
    with pytest.raises(TypeError, match="use submit_async"):
        add.options(client=client).submit(1)


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1,), {"c": 2}, "got an unexpected keyword argument 'c'"),
        (("1",), {}, "Expected `int`"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_submitted(
    args: tuple[Any, ...], kwargs: dict[str, Any], error: str
) -> None:
    with pytest.raises(TypeError, match=error):
        add.spec(*args, **kwargs)


def test_options_change_what_is_submitted_and_nothing_else() -> None:
    later = datetime(2030, 1, 1, tzinfo=UTC)

    spec = add.options(queue="slow", priority=9, run_at=later, retries=6).spec(1)

    assert (spec.queue, spec.priority, spec.max_attempts) == ("slow", 9, 7)
    assert spec.run_at.ToDatetime(UTC) == later
    assert (add.spec(1).queue, add.spec(1).priority, add.spec(1).max_attempts) == ("q", 0, 2)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Order, Order(number=7, lines=["ä"])),
        (Point, Point(1.5)),
        (list[Point], [Point(0.0, 2.0)]),
        (bytes, b"\xff\xfe"),
        (float, math.inf),
        (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, UTC)),
        (timedelta, timedelta(days=1, microseconds=3)),
        (dict[int, set[str]], {1: {"a"}}),
        (Point | None, None),
    ],
)
def test_values_come_through_json_as_they_were(kind: object, value: object) -> None:
    def same(it: object) -> object:
        return it

    same.__annotations__ = {"it": kind, "return": kind}
    signature = Signature(same)

    assert signature.decode(signature.encode((value,), {})) == {"it": value}
    assert signature.decode_result(signature.encode_result(value)) == value


def test_a_handler_of_bytes_is_left_as_it_is(handlers: registry.Registry) -> None:
    def named(payload: bytes, context: TaskContext) -> bytes:
        return payload

    def untyped(payload, context):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as people write them
        return payload

    def late(payload: bytes, _context: Elsewhere.TaskContext | None = None) -> bytes:  # type: ignore[name-defined]  # noqa: F821 - as if imported for type checkers alone
        return payload

    for at, function in enumerate([named, untyped, late]):
        assert task(f"t{at}")(function) is function
        handler = handlers.get(f"t{at}")
        assert handler is not None
        assert handler.function is function
    assert handlers.problems() == []


def test_without_a_name_the_type_is_module_and_function(handlers: registry.Registry) -> None:
    def nested() -> None: ...

    assert place.task_type == "tests.worker.typed_handlers.place"
    nested.__qualname__ = "top"
    typed: TypedTask[[], None] = task(nested)
    assert (typed.task_type, typed.queue) == ("tests.worker.test_typed.top", "default")
    assert handlers.task_types() == ["tests.worker.test_typed.top"]


def test_a_type_that_a_worker_would_not_know_is_refused_when_submitted(
    handlers: registry.Registry,
) -> None:
    def top() -> None: ...

    top.__module__, top.__qualname__ = "__main__", "top"

    with pytest.raises(ValueError, match="give the task a name"):
        task(top).spec()


def test_what_cannot_be_sent_is_refused_where_it_is_defined(handlers: registry.Registry) -> None:
    def stars(*paths: str) -> None: ...

    def untyped(path: str, size=1) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - that is the point
        ...

    def plain(payload: bytes, context: TaskContext) -> None: ...

    with pytest.raises(TypeError, match=r"its parameter \*paths: .* cannot be sent"):
        task("a")(stars)
    with pytest.raises(TypeError, match="its parameter size has no type"):
        task("b")(untyped)
    with pytest.raises(TypeError, match="are for functions with types of their own"):
        task("c", retries=3)(plain)
    with pytest.raises(ValueError, match="retries=-1: 0 to 999"):
        task("d", retries=-1)
    assert handlers.task_types() == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("async def f(n: int) -> AsyncIterator[int]:\n    yield n", "it is a generator"),
        ("def f(n: int) -> Iterator[int]:\n    yield n", "it is a generator"),
        ("def f(path, size): ...", "its parameter path has no type: write path: str"),
        ("def f(path): ...", "its parameter path has no type: write path: str"),
        ("def f(n: int) -> Awaitable[int]: ...", "make it async"),
        (
            "async def g(n: int) -> int: ...\n@wraps(g)\ndef f(*args): return g(*args)",
            "make it async",
        ),
    ],
)
def test_what_would_never_run_to_its_end_is_refused_in_a_sentence_that_says_what_to_write(
    handlers: registry.Registry, source: str, fault: str
) -> None:
    names: dict[str, Any] = {
        "AsyncIterator": AsyncIterator,
        "Awaitable": Awaitable,
        "Iterator": Iterator,
        "wraps": wraps,
    }
    exec(source, names)  # noqa: S102 - as a module of handlers would

    with pytest.raises(TypeError, match=fault):
        task("odd")(names["f"])
    assert handlers.task_types() == []


def test_functions_without_types_may_be_of_bytes_or_without_parameters(
    handlers: registry.Registry,
) -> None:
    def of_bytes(_payload, _context):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - that is the point
        ...

    def tick():  # type: ignore[no-untyped-def]  # noqa: ANN202 - as above
        ...

    assert task("bytes")(of_bytes) is of_bytes
    typed: Any = task("tick")(tick)

    assert typed.spec().payload == b"{}"
    assert handlers.task_types() == ["bytes", "tick"]


def test_types_that_are_not_json_are_a_problem_of_loading(handlers: registry.Registry) -> None:
    class Odd:
        pass

    def odd(it: Odd) -> None: ...

    odd.__annotations__["it"] = Odd

    task("odd")(odd)

    [problem] = handlers.problems()
    assert problem.startswith("@task('odd'): tests.worker.test_typed.")
    assert "Unable to generate pydantic-core schema" in problem


def test_a_payload_is_an_empty_call_where_it_is_empty() -> None:
    def none_needed(a: int = 1) -> None: ...

    none_needed.__annotations__["a"] = int

    assert Signature(none_needed).decode(b"") == {}
    with pytest.raises(UnfitTaskError):
        Signature(none_needed).decode(b"null")


def test_a_process_with_handlers_of_bytes_alone_carries_neither_grpc_nor_pydantic() -> None:
    told = run(
        "-c", "import sys, tq_worker.child.__main__, tq_worker.handlers; print(*sys.modules)"
    )

    assert told.returncode == 0, told.stderr
    assert "tq_worker.api.typed" in told.stdout.split()
    assert {"grpc", "pydantic", "tq_client.async_client"}.isdisjoint(told.stdout.split())
