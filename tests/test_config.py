"""A node's file, its overrides, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tq_cluster import config
from tq_cluster.config import ConfigError
from tq_process.settings.setting import Mistake

ROOT = Path(__file__).resolve().parents[1]
GOOD = """
node_id: n1
data_dir: data/n1
members:
  n1: {raft: "127.0.0.1:7101", api: "127.0.0.1:7001"}
  n2: {raft: "127.0.0.1:7102", api: "127.0.0.1:7002"}
  n3: {raft: "127.0.0.1:7103", api: "127.0.0.1:7003"}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "node.yaml"
    path.write_text(text)
    return path


def mistakes_in(path: Path | None, **environment: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        config.load(path, environment, {})
    return {mistake.field: mistake.problem for mistake in caught.value.mistakes}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_shipped_files_are_right_and_name_the_same_three_members(number: int) -> None:
    loaded = config.load(ROOT / f"cluster-configs/node{number}.yaml", {}, {})

    assert loaded.node_id == f"n{number}"
    assert loaded.listen_api == f"127.0.0.1:700{number}"
    assert loaded.listen_raft == f"127.0.0.1:710{number}"
    assert set(loaded.members) == {"n1", "n2", "n3"}
    assert loaded.metrics_listen is None


def test_the_environment_overrides_the_file_and_flags_override_both(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "log: {level: debug}\n")
    environment = {
        "TQ_NODE_ID": "n2",
        "TQ_DATA_DIR": "elsewhere",
        "TQ_LISTEN_API": "0.0.0.0:9001",
        "TQ_CALLS_MAX": "12",
    }
    flags = {("node_id",): "n3", ("log", "format"): "json", ("limits", "calls_max"): "7"}

    loaded = config.load(path, environment, flags)

    assert loaded.node_id == "n3"
    assert loaded.data_dir == Path("elsewhere")
    assert loaded.listen_api == "0.0.0.0:9001"
    assert loaded.limits.calls_max == 7
    assert (loaded.log.format, loaded.log.level) == ("json", "debug")


def test_a_node_needs_no_file_where_the_environment_says_everything() -> None:
    environment = {
        "TQ_NODE_ID": "a",
        "TQ_DATA_DIR": "/var/lib/tq",
        "TQ_MEMBERS": "a=10.0.0.1:7101/10.0.0.1:7001, b=10.0.0.2:7101/10.0.0.2:7001",
        "TQ_CALLS_MAX": "12",
    }

    loaded = config.load(None, environment, {})

    assert loaded.members["b"].api == "10.0.0.2:7001"
    assert loaded.limits.calls_max == 12


def test_every_mistake_is_reported_together_with_its_field(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
node_id: n9
data_dir: ""
colour: red
members:
  n1: {raft: "127.0.0.1:7101", api: "127.0.0.1"}
  n2: {raft: "127.0.0.1:7101", api: "127.0.0.1:99999"}
  "n 3": {raft: "127.0.0.1:7103"}
limits: {calls_max: 0}
log: {level: loud}
""",
    )

    found = mistakes_in(path, TQ_METRICS_LISTEN="nowhere")

    assert found == {
        "node_id": "'n9' is not among the members (n 3, n1, n2)",
        "data_dir": "is empty; right is a path such as /var/lib/tq/n1",
        "colour": "is not a field that is known here",
        "members.n1.api": "must be host:port, such as 127.0.0.1:7001; is '127.0.0.1'",
        "members.n2.raft": "127.0.0.1:7101 is already that of members.n1.raft",
        "members.n2.api": "port 99999 is out of range; right is 1 to 65535; is '127.0.0.1:99999'",
        "members.n 3": (
            "must be 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit; is 'n 3'"
        ),
        "members.n 3.api": "is missing; it is required",
        "limits.calls_max": "must be a whole number from 1 to 1000000; is 0",
        "log.level": "is 'loud'; right is one of 'debug', 'info', 'warning' or 'error'",
        "metrics_listen": "must be host:port, such as 127.0.0.1:7001; is 'nowhere'",
    }


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"TQ_OTLP_ENDPOINT": "collector"}, "must be host:port, such as 127.0.0.1:7001"),
        ({"TQ_OTLP_ENDPOINT": "ftp://collector:1"}, "must be host:port"),
        ({"TQ_TRACING_RATIO": "2"}, "must be a number from 0 to 1; is '2'"),
        ({"TQ_TRACING_RATIO": "few"}, "must be a number from 0 to 1"),
        ({"TQ_LOG_TASKS": "sometimes"}, "must be true or false"),
    ],
    ids=str,
)
def test_what_is_wrong_with_traces_and_task_lines_is_said(
    tmp_path: Path, given: dict[str, str], problem: str
) -> None:
    [said] = mistakes_in(write(tmp_path, GOOD), **given).values()

    assert problem in said


@pytest.mark.parametrize("said", ["true", "1", "Yes"])
def test_a_cluster_of_one_with_several_members_is_a_mistake(tmp_path: Path, said: str) -> None:
    found = mistakes_in(write(tmp_path, GOOD), TQ_SINGLE=said)

    assert found == {"single": "is true, but members names 3 (n1, n2, n3); right is one of them"}
    assert not config.load(write(tmp_path, GOOD), {"TQ_SINGLE": "no"}, {}).single


@pytest.mark.parametrize("said", ["true", "1", "Yes", "t", "y"])
def test_an_optional_secret_without_a_file_is_a_mistake(tmp_path: Path, said: str) -> None:
    found = mistakes_in(write(tmp_path, GOOD), TQ_CLUSTER_SECRET_OPTIONAL=said)

    assert found == {
        "cluster_secret_optional": "is true without a cluster_secret_file; give that, too"
    }


def test_traces_and_task_lines_are_off_unless_told(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)

    told = {"TQ_OTLP_ENDPOINT": "https://c:4317/", "TQ_TRACING_RATIO": "0.1", "TQ_LOG_TASKS": "1"}

    silent, telling = config.load(path, {}, {}), config.load(path, told, {})
    assert (silent.tracing.otlp_endpoint, silent.log.tasks) == (None, False)
    assert telling.tracing == config.Tracing(otlp_endpoint="https://c:4317/", ratio=0.1)
    assert telling.log.tasks


def test_a_mistake_names_where_its_value_came_from(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)

    with pytest.raises(ConfigError) as caught:
        config.load(path, {"TQ_LOG_LEVEL": "loud"}, {("listen", "api"): "7001"})

    assert [(mistake.field, mistake.source) for mistake in caught.value.mistakes] == [
        ("listen.api", "--listen-api"),
        ("log.level", "TQ_LOG_LEVEL"),
    ]


def test_what_is_missing_is_said_field_by_field() -> None:
    assert mistakes_in(None) == {
        "node_id": "is missing; it is required",
        "data_dir": "is missing; it is required",
        "members": "is missing; it is required",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("node_id: [n1", "line 1, column 13: not YAML"),
        (GOOD + "node_id: n2\n", "the key 'node_id' stands twice"),
        ("- a\n- b\n", "must be a mapping of fields"),
        ("node_id: \x00", "not YAML"),
        ("node_id: !!map n1", "line 1, column 10: not YAML: a mapping is expected here"),
        ('node_id: "\\ud800"', "line 1, column 10: not YAML: half of a surrogate pair"),
        ("node_id: " + "n" * 300_000, "is too long; right is 256 KiB at most"),
        ("? [a]\n: b\n", "line 1, column 3: not YAML: a field's name must be text"),
        ("[" * 5_000, "not YAML: nested too deeply"),
    ],
)
def test_a_file_that_is_no_configuration_is_said_to_be_none(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=r".*") as caught:
        config.load(write(tmp_path, text), {}, {})

    assert said in str(caught.value)
    assert "is missing" not in str(caught.value), "what stands in it is not known"


def test_a_data_directory_that_no_system_takes_is_a_mistake(tmp_path: Path) -> None:
    found = mistakes_in(write(tmp_path, GOOD), TQ_DATA_DIR="/var/\0tq")

    assert found == {
        "data_dir": "'/var/\\x00tq' has a NUL in it; right is a path such as /var/lib/tq/n1"
    }


def test_a_file_that_is_not_there_is_a_mistake_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "missing.yaml", {}, {})

    assert "missing.yaml: cannot be read: No such file or directory" in str(caught.value)


def test_a_number_where_text_belongs_is_told_to_stand_in_quotes(tmp_path: Path) -> None:
    found = mistakes_in(write(tmp_path, GOOD.replace("node_id: n1", "node_id: 1")))

    assert found == {"node_id": "must be text, is 1; write it in quotes"}


def test_members_of_the_environment_are_checked_one_by_one() -> None:
    found = mistakes_in(
        None, TQ_NODE_ID="a", TQ_DATA_DIR="d", TQ_MEMBERS="a=1.2.3.4:1/1.2.3.4:2,b:3"
    )

    assert found == {
        "members": (
            "'b:3' is no member; right is n1=RAFT_HOST:PORT/API_HOST:PORT, members apart by commas"
        )
    }


def test_a_mistake_reads_as_field_source_and_problem() -> None:
    assert str(Mistake("node_id", "TQ_NODE_ID", "is wrong")) == "node_id (TQ_NODE_ID): is wrong"


def test_a_wrong_value_that_is_overridden_is_no_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "log: {level: loud}\n")
    variables = {"TQ_LOG_LEVEL": "louder", "TQ_MEMBERS": "nonsense"}
    flags = {("log", "level"): "debug", ("members",): "n1=127.0.0.1:1/127.0.0.1:2"}

    loaded = config.load(path, variables, flags)

    assert (loaded.log.level, list(loaded.members)) == ("debug", ["n1"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("node-idd: n1\n", {"node-idd": "; did you mean node_id?"}),
        ("log_level: info\n", {"log_level": "; did you mean log.level?"}),
        ("limits: {call_max: 1}\n", {"limits.call_max": "; did you mean limits.calls_max?"}),
    ],
)
def test_a_field_that_is_misspelt_is_named_with_the_one_that_is_near(
    tmp_path: Path, text: str, found: dict[str, str]
) -> None:
    said = {field: f"is not a field that is known here{near}" for field, near in found.items()}

    assert mistakes_in(write(tmp_path, GOOD + text)) == said


@pytest.mark.parametrize("given", ["true", "0x" + "f" * 5_000, "9" * 5_000, "1.5", ".nan", "[1]"])
def test_a_limit_that_is_no_whole_number_in_its_range_is_a_mistake(
    tmp_path: Path, given: str
) -> None:
    [said] = mistakes_in(write(tmp_path, GOOD + f"limits: {{calls_max: {given}}}\n")).values()

    assert said.startswith("must be a whole number from 1 to 1000000; is ")
    assert len(said) < 200


def test_a_file_with_an_empty_name_or_a_number_as_one_has_these_named(tmp_path: Path) -> None:
    found = mistakes_in(write(tmp_path, GOOD + '"": 1\n7: 1\n'))

    assert found == {
        "''": "is not a field that is known here",
        "7": "a field's name must be text, is 7; write it in quotes",
    }
