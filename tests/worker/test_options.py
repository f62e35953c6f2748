"""A worker's file, its overrides, and what is said of mistakes."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.worker.conftest import ROOT
from tq_common import durations
from tq_common.names import WORKER_ID_CHARS_MAX
from tq_process.settings.setting import Kind, Setting, SettingsError
from tq_worker.cli import command, config, run
from tq_worker.cli.config import WorkerConfig
from tq_worker.cli.settings import SETTINGS
from tq_worker.telemetry import tracing

NEEDED = {"handlers": "tq_worker.handlers", "queues": "q"}
NEEDED_FLAGS: Mapping[tuple[str, ...], str] = {("handlers",): "h", ("queues",): "q"}
EXAMPLE = ROOT / "cluster-configs" / "worker.yaml"

Said = tuple[int, str, str]
"""An exit code, and what was written to standard output and standard error."""
Start = Callable[..., Said]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """The command, run in this process."""
    for setting in SETTINGS:
        monkeypatch.delenv(setting.environment, raising=False)

    def started(*arguments: str, environment: Mapping[str, str] | None = None) -> Said:
        with monkeypatch.context() as patch:
            for name, text in (environment or {}).items():
                patch.setenv(name, text)
            patch.setattr(sys, "argv", ["tq-worker", *arguments])
            with pytest.raises(SystemExit) as ended:
                command.main()
        output = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), output.out, output.err

    return started


def write(folder: Path, values: object) -> Path:
    path = folder / "worker.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def nested(field: tuple[str, ...], value: object) -> dict[str, Any]:
    """The file that gives one field, besides those that every worker needs."""
    for part in reversed(field[1:]):
        value = {part: value}
    return {**NEEDED, field[0]: value}


def value_of(loaded: WorkerConfig, field: tuple[str, ...]) -> object:
    found: object = loaded
    for part in field:
        found = getattr(found, part)
    return found


def mistakes_in(
    path: Path | None, flags: Mapping[str, str] | None = None, **environment: str
) -> dict[str, str]:
    given = {tuple(name.split(".")): text for name, text in (flags or {}).items()}
    with pytest.raises(SettingsError) as caught:
        config.load(path, environment, given)
    return {mistake.field: mistake.problem for mistake in caught.value.mistakes}


IN_EACH_PLACE: Mapping[str, tuple[object, str, object]] = {
    "handlers": (["shop.images", "mail"], "shop.images, mail", ("shop.images", "mail")),
    "queues": (["a", "b"], "a,b,a", ("a", "b")),
    "address": (["h:1", "[::1]:2"], "h:1,[::1]:2", ("h:1", "[::1]:2")),
    "concurrency": (20, "20", 20),
    "processes": (2, "2", 2),
    "process_slots": (3, "3", 3),
    "limit": ({"resize": 2, "a:b": 1}, "resize=2, a:b=1", {"resize": 2, "a:b": 1}),
    "max_tasks_per_child": (1_000, "1000", 1_000),
    "max_memory_per_child_mb": (500, "500", 500),
    "lease": ("5m", "5m", 300.0),
    "drain_timeout": ("1.5h", "1.5 h", 5_400.0),
    "unfit_for": (90, "90", 90.0),
    "deaf_after": ("2500ms", "2500ms", 2.5),
    "worker_id": ("me", "me", "me"),
    "log.format": ("json", "json", "json"),
    "log.tasks": (True, "true", True),
    "tracing.otlp_endpoint": ("https://c:4317", "https://c:4317", "https://c:4317"),
    "tracing.ratio": (0.25, "0.25", 0.25),
    "metrics_listen": ("0.0.0.0:7301", "0.0.0.0:7301", "0.0.0.0:7301"),
    "reload": (True, "true", True),
}
"""A value of every setting: in a file, as text, and as it is then."""


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_can_be_given_in_the_file_the_environment_and_by_flag(
    setting: Setting, tmp_path: Path
) -> None:
    in_file, text, meant = IN_EACH_PLACE[setting.name]
    needed = {"TQ_WORKER_HANDLERS": "h", "TQ_WORKER_QUEUES": "q"}

    from_file = config.load(write(tmp_path, nested(setting.field, in_file)), {}, {})
    from_variable = config.load(None, {**needed, setting.environment: text}, {})
    from_flag = config.load(None, needed, {setting.field: text})

    assert value_of(from_file, setting.field) == meant
    assert value_of(from_variable, setting.field) == meant
    assert value_of(from_flag, setting.field) == meant


def test_the_environment_overrides_the_file_and_flags_override_both(
    start: Start, tmp_path: Path
) -> None:
    file = {**NEEDED, "concurrency": 1, "lease": "1s", "queues": ["f"], "limit": {"a": 1}}
    path = write(tmp_path, {**file, "reload": True, "log": {"format": "json", "tasks": True}})

    code, shown, _ = start(
        *("check-config", "--config", str(path), "--lease", "3s", "--no-reload"),
        *("--limit", "b=2", "--limit", "c=3"),
        environment={"TQ_WORKER_CONCURRENCY": "2", "TQ_WORKER_LEASE": "2s", "TQ_LOG_TASKS": "no"},
    )

    told = json.loads(shown)
    assert code == 0
    assert told["queues"] == ["f"]
    assert told["concurrency"] == 2
    assert told["lease"] == 3.0
    assert told["limit"] == {"b": 2, "c": 3}
    assert told["reload"] is False
    assert told["log"] == {"format": "json", "tasks": False}


def test_a_variable_that_is_set_but_empty_counts_as_absent_as_it_always_did() -> None:
    names = ["TQ_ADDRESS", "TQ_LOG_TASKS", "TQ_METRICS_LISTEN", "TQ_OTLP_ENDPOINT"]

    loaded = config.load(None, dict.fromkeys([*names, "TQ_TRACING_RATIO"], ""), NEEDED_FLAGS)

    assert loaded == config.load(None, {}, NEEDED_FLAGS)


def test_what_the_machine_decides_is_filled_in_when_the_worker_starts() -> None:
    few = run.options_of(config.load(None, {}, {**NEEDED_FLAGS, ("concurrency",): "1"}))
    told = run.options_of(
        config.load(
            None,
            {},
            {
                **NEEDED_FLAGS,
                ("process_slots",): "7",
                ("worker_id",): "me",
                ("max_memory_per_child_mb",): "5",
                ("metrics_listen",): "[::1]:7301",
            },
        )
    )

    assert (few.process_slots, few.memory_bytes_max, few.metrics_listen) == (1, None, None)
    assert 1 <= len(few.worker_id) <= WORKER_ID_CHARS_MAX
    assert (told.process_slots, told.worker_id) == (7, "me")
    assert (told.memory_bytes_max, told.metrics_listen) == (5_000_000, ("::1", 7301))


def test_every_mistake_of_every_source_is_reported_together(start: Start, tmp_path: Path) -> None:
    path = write(tmp_path, {"handlers": "no-module", "lease": "1day", "colour": 1})

    code, shown, said = start(
        *("run", "--config", str(path), "--processes", "x", "--tracing-ratio", "2"),
        environment={"TQ_METRICS_LISTEN": "here", "TQ_WORKER_UNFIT_FOR": "0.5s"},
    )

    assert (code, shown) == (2, "")
    assert said.splitlines() == [
        "tq-worker: the configuration has 8 mistakes:",
        (
            f"  handlers ({path}): 'no-module' cannot be a name here;"
            " right is modules like package.module"
        ),
        f"  queues ({path}): is missing; it is required",
        "  processes (--processes): must be a whole number from 1 to 64; is 'x'",
        (
            f"  lease ({path}): must be a time such as 500ms, 30s, 5m or 1h, from 1s to 1h;"
            " is '1day'"
        ),
        (
            "  unfit_for (TQ_WORKER_UNFIT_FOR): must be a time such as 500ms, 30s, 5m or 1h,"
            " from 1s to 168h; is '0.5s'"
        ),
        "  tracing.ratio (--tracing-ratio): must be a number from 0 to 1; is '2'",
        (
            "  metrics_listen (TQ_METRICS_LISTEN): must be host:port, such as 127.0.0.1:7001;"
            " is 'here'"
        ),
        f"  colour ({path}): is not a field that is known here",
    ]


def test_more_processes_than_tasks_at_a_time_are_a_mistake_wherever_they_are_given(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, {**NEEDED, "concurrency": 3, "lease": "never"})

    found = mistakes_in(path, TQ_WORKER_PROCESSES="4")

    assert found["processes"] == (
        "4 is more than the concurrency, so that some would have nothing to do; right is 1 to 3"
    )
    assert sorted(found) == ["lease", "processes"]
    assert sorted(mistakes_in(path, TQ_WORKER_PROCESSES="99")) == ["lease", "processes"]


def test_traces_without_what_exports_them_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "installed", lambda: False)
    needed = {"handlers": "h", "queues": "q", "tracing.otlp_endpoint": "c:4317"}

    assert mistakes_in(None, needed) == {"tracing.otlp_endpoint": tracing.TO_DO}


def test_no_more_than_64_queues_are_served() -> None:
    names = ",".join(f"q{number}" for number in range(65))

    assert mistakes_in(None, {"handlers": "h", "queues": names}) == {
        "queues": "names 65 queues; right is 64 at most"
    }


@pytest.mark.parametrize(
    ("file", "field", "meant"),
    [
        ({"handler": "a"}, "handler", "handlers"),
        ({"Queues": "a"}, "Queues", "queues"),
        ({"max-tasks-per-child": 1}, "max-tasks-per-child", "max_tasks_per_child"),
        ({"max_memory_per_child": 1}, "max_memory_per_child", "max_memory_per_child_mb"),
        ({"otlp_endpoint": "a:1"}, "otlp_endpoint", "tracing.otlp_endpoint"),
        ({"log_format": "json"}, "log_format", "log.format"),
        ({"log": {"fromat": "json"}}, "log.fromat", "log.format"),
    ],
)
def test_a_field_that_is_misspelt_is_named_with_the_one_that_is_near(
    file: Mapping[str, object], field: str, meant: str, tmp_path: Path
) -> None:
    found = mistakes_in(write(tmp_path, {**NEEDED, **file}))

    assert found == {field: f"is not a field that is known here; did you mean {meant}?"}


HOSTILE_TEXTS = (
    "",
    " ",
    "-1",
    "0",
    "nan",
    "inf",
    "1e999",
    "9" * 5_000,
    "\u0663",
    "a b!",
    "a=",
    "=1",
    "a=0",
    "{}",
    "host:99999",
    "x" * 100_000,
    "\udcff",
)
RIGHT_AS_TEXT: Mapping[str, set[str]] = {
    "handlers": {"nan", "inf", "x" * 100_000},
    "queues": {"-1", "0", "nan", "inf", "1e999"},
    "worker_id": set(HOSTILE_TEXTS) - {"", "9" * 5_000, "x" * 100_000, "\udcff"},
    "drain_timeout": {"0"},
    "tracing.ratio": {"0"},
    "log.tasks": {"0"},
    "reload": {"0"},
}
"""What is hostile for most settings, and right for these."""


def is_right(setting: Setting, text: str) -> bool:
    return text in RIGHT_AS_TEXT.get(setting.name, ()) or (setting.empty_is_absent and not text)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_no_text_for_any_setting_gives_more_than_a_mistake_that_names_it(
    setting: Setting, start: Start
) -> None:
    needed = {"TQ_WORKER_HANDLERS": "h", "TQ_WORKER_QUEUES": "q"}
    for text in HOSTILE_TEXTS:
        by_flag = ["check-config", f"{setting.flag}={text}"]
        given = {
            setting.environment: start(
                "check-config", environment={**needed, setting.environment: text}
            )
        }
        if setting.kind is not Kind.SWITCH:
            given[setting.flag] = start(*by_flag, environment=needed)
        for source, (code, _, said) in given.items():
            note = f"{source} {text[:20]!r}: {said}"
            assert code == (0 if is_right(setting, text) else 2), note
            assert "Traceback" not in said, note
            assert len(said) < 2_000, note
            if code:
                assert f"  {setting.name} ({source}): " in said, note


HOSTILE_YAML = (
    "''",
    "-1",
    "0",
    ".nan",
    ".inf",
    "-.inf",
    "1e999",
    "9" * 5_000,
    "0x" + "f" * 5_000,
    "1:59:59",
    "true",
    "2020-99-99",
    "2020-01-01",
    "!!binary aGk=",
    '!!int ""',
    '!!bool "x"',
    "!!timestamp x",
    "!!set {a}",
    "[]",
    "[[[[1]]]]",
    "&a [*a]",
    "{}",
    "{a: {b: [c]}}",
    "{1: 2}",
    "{null: 1}",
    "'\u0663'",
)
RIGHT_IN_A_FILE: Mapping[str, set[str]] = {
    "handlers": {'!!bool "x"', "!!timestamp x"},
    "queues": {"1e999", "2020-99-99", "2020-01-01", '!!bool "x"', "!!timestamp x"},
    "limit": {"{}"},
    "max_tasks_per_child": {"1:59:59"},
    "max_memory_per_child_mb": {"1:59:59"},
    "drain_timeout": {"0", "1:59:59"},
    "unfit_for": {"1:59:59"},
    "worker_id": {
        *("1e999", "2020-99-99", "2020-01-01", '!!bool "x"', "!!timestamp x", "'\u0663'")
    },
    "log.tasks": {"0", "true"},
    "tracing.ratio": {"0"},
    "reload": {"0", "true"},
}
"""As above. `1:59:59` is the number 7199 in YAML 1.1, and `1e999` is text."""


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_no_value_in_a_file_gives_more_than_a_mistake_that_names_its_field(
    setting: Setting, start: Start, tmp_path: Path
) -> None:
    for text in HOSTILE_YAML:
        *above, name = setting.field
        lines = "".join(f"{needed}: a\n" for needed in NEEDED if needed != name)
        lines += "".join(f"{part}: " for part in above) + (
            f"{{{name}: {text}}}\n" if above else f"{name}: {text}\n"
        )
        path = write(tmp_path, lines)

        code, _, said = start("check-config", "--config", str(path))

        note = f"{text[:20]}: {said}"
        assert code == (0 if text in RIGHT_IN_A_FILE.get(setting.name, ()) else 2), note
        assert "Traceback" not in said, note
        assert len(said) < 2_000, note
        if code:
            assert f"  {setting.name}" in said, note
            assert str(path) in said, note


@pytest.mark.slow
def test_a_file_of_very_many_mistakes_has_a_short_answer(tmp_path: Path) -> None:
    found = write(tmp_path, "".join(f"k{number}: 1\n" for number in range(2_000)))

    with pytest.raises(SettingsError) as caught:
        config.load(found, {}, {})

    assert "the configuration has 2002 mistakes:" in str(caught.value)
    assert "  and 1902 more" in str(caught.value)
    assert len(str(caught.value)) < 20_000


def test_an_alias_that_unfolds_to_millions_is_not_written_out(tmp_path: Path) -> None:
    folds = [f"a{of}: &a{of} [{', '.join([f'*a{of - 1}'] * 8)}]" for of in range(1, 12)]
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]", *folds, "handlers: *a11", "limit: {x: *a11}"]
    path = write(tmp_path, "\n".join(lines))

    with pytest.raises(SettingsError) as caught:
        config.load(path, {}, {})

    assert {"handlers", "limit"} <= {mistake.field for mistake in caught.value.mistakes}
    assert len(str(caught.value)) < 10_000


def test_neither_a_file_nor_its_name_can_control_the_terminal(start: Start, tmp_path: Path) -> None:
    path = write(tmp_path, '"a\\e[2J\\u202e": "\\e[2J"\nhandlers: "\\e[2J"\n')
    path = path.rename(tmp_path / "a\u202e\a.yaml")

    code, _, said = start("check-config", "--config", str(path))

    assert code == 2
    assert not {"\x1b", "\u202e", "\a"} & set(said)


def test_a_file_that_is_not_there_is_the_only_mistake(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"

    code, _, said = start("run", "--config", str(path))

    assert code == 2
    assert said.splitlines() == [
        "tq-worker: the configuration has 1 mistake:",
        f"  {path}: cannot be read: No such file or directory",
    ]


def test_the_shipped_file_states_the_defaults_and_has_a_right_line_for_every_setting(
    tmp_path: Path,
) -> None:
    everything = re.sub(r"^# (?=[a-z_]+:)", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    values = yaml.safe_load(everything)

    shipped = config.load(EXAMPLE, {}, {})
    full = config.load(write(tmp_path, everything), {}, {})

    needed = {"handlers": "tq_worker.handlers", "queues": "default"}
    assert shipped == config.load(write(tmp_path, needed), {}, {})
    assert full.limit == {"resize": 2, "mail": 1}
    for setting in SETTINGS:
        found = values
        for part in setting.field:
            assert part in found, setting.name
            found = found[part]


def test_what_check_config_prints_is_a_file_of_the_same_configuration(
    start: Start, tmp_path: Path
) -> None:
    given = list(
        itertools.chain.from_iterable(
            [setting.flag] if setting.kind is Kind.SWITCH else [setting.flag, text]
            for setting in SETTINGS
            for _, text, _ in [IN_EACH_PLACE[setting.name]]
        )
    )

    _, first, _ = start("check-config", *given)
    _, second, _ = start("check-config", "--config", str(write(tmp_path, first)))

    assert json.loads(first)["limit"] == {"resize": 2, "a:b": 1}
    assert second == first


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("name", ["run", "check", "check-config"])
def test_the_help_shows_every_flag_its_variable_and_its_default(
    name: str, flag: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    code, coloured, _ = start(name, flag)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", coloured)

    assert code == 0
    for setting in SETTINGS:
        assert f" {setting.flag} " in shown
        assert f"${setting.environment}" in shown
    assert "default: 30s" in shown


@pytest.mark.slow
def test_a_handler_process_loads_nothing_of_the_command_line() -> None:
    code = "import sys; import tq_worker.child.__main__, tq_worker.handlers; print(*sys.modules)"

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    loaded = set(ended.stdout.split())
    assert "tq_worker.child.runner" in loaded
    assert not loaded & {"typer", "pydantic", "yaml", "tq_worker.cli", "tq_process.settings"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("--help", {"pydantic", "yaml"}),
        ("version", {"yaml"}),
        ("check-config", {"yaml"}),
    ],
)
def test_what_needs_no_broker_starts_without_grpc_and_what_else_it_can_do_without(
    name: str, others: set[str]
) -> None:
    code = (
        "import sys, atexit; atexit.register(lambda: print(*sys.modules));"
        f"sys.argv = ['tq-worker', {name!r}]; from tq_worker.cli import command; command.main()"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )

    loaded = set(ended.stdout.splitlines()[-1].split())
    assert "typer" in loaded, ended.stderr
    assert not loaded & {"grpc", *others}


def test_the_file_of_the_document_is_right_and_its_answer_is_the_workers(
    start: Start, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "worker.md").read_text()
    [file] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    [answer] = re.findall(r"```text\n(tq-worker: .*?)```", text, re.DOTALL)
    path = write(tmp_path, file)
    loaded = config.load(path, {"TQ_WORKER_CONCURRENCY": "50"}, {})
    path.write_text(f"{file}concurency: 20\n")

    code, _, said = start("check-config", "--config", str(path), "--lease", "1day")

    assert (loaded.concurrency, loaded.limit) == (50, {"resize": 2})
    assert (code, said.replace(str(path), "worker.yaml")) == (2, answer)


@pytest.mark.slow
def test_plugins_of_pydantic_are_left_to_handler_processes(tmp_path: Path) -> None:
    (tmp_path / "found.dist-info").mkdir()
    (tmp_path / "found.dist-info" / "METADATA").write_text("Name: found\nVersion: 1\n")
    (tmp_path / "found.dist-info" / "entry_points.txt").write_text("[pydantic]\na = found:a\n")
    (tmp_path / "found.py").write_text("print('loaded')\n")
    (tmp_path / "mine.py").write_text(
        "from tq_worker import task\n\n@task('mine')\ndef mine(path: str) -> str: ...\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    options = ["--handlers", "mine", "--queues", "default"]

    def ended(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tq_worker", command, *options],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )

    assert "loaded" not in ended("check-config").stdout
    # What the process of the handlers prints is passed on to standard error.
    assert "loaded" in ended("check").stderr


@pytest.mark.parametrize("text", ["500ms", "30", "1.5", "5min", "2h", "0.5d"])
def test_a_time_means_what_it_means_to_every_program(text: str) -> None:
    loaded = config.load(None, {"TQ_WORKER_DRAIN_TIMEOUT": text}, NEEDED_FLAGS)

    assert loaded.drain_timeout == durations.parse(text).total_seconds()
