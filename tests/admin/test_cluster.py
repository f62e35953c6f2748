"""The cluster as an operator sees it: whole, hurt, leaderless, gone."""

from __future__ import annotations

import re
import socket

import grpc
import pytest

from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker, cluster, refuse, serving
from tq.v1.cluster_service_pb2 import NodeStatus


def test_the_table_shows_every_node(admin: Admin, broker: FakeBroker) -> None:
    broker.cluster = cluster(leader="n2")

    ran = admin("cluster-status")

    assert (ran.code, ran.stderr) == (0, "")
    [row] = [line for line in ran.stdout.splitlines() if line.strip().startswith("n2")]
    assert row.split() == ["n2", "n2.example:7001", "LEADER", "4", "1207", "1205", "0", "yes", "-"]


def test_a_node_that_is_down_is_shown_with_the_reason(admin: Admin, broker: FakeBroker) -> None:
    broker.cluster = cluster(leader="n2", down=("n3",))

    ran = admin("cluster-status")

    assert ran.code == 0
    [row] = [line for line in ran.stdout.splitlines() if line.strip().startswith("n3")]
    assert row.split()[-3:] == ["NO", "connection", "refused"]
    node = admin("cluster-status", "-o", "json").json["nodes"][2]
    assert (node["reachable"], node["role"]) == (False, "UNSPECIFIED")


def test_without_a_leader_the_nodes_are_shown_and_the_exit_code_is_3(
    admin: Admin, broker: FakeBroker
) -> None:
    broker.cluster = cluster(leader="", down=("n1", "n3"))

    ran = admin("cluster-status")

    assert ran.code == 3
    assert "n2.example" in ran.stdout
    assert "the cluster has no leader: 1 of 3 nodes are reachable" in ran.stderr


def test_what_a_node_would_have_an_operator_know_is_shown_whole(
    admin: Admin, broker: FakeBroker
) -> None:
    broker.cluster = cluster(leader="n2")
    message = "n3 is not a member of its peers' cluster: put it in the place of the one that was"
    broker.cluster.nodes[2].message = message

    ran = admin("cluster-status")

    assert f"n3: {message}" in " ".join(ran.stdout.split())


def test_a_warning_of_several_nodes_is_shown_once_with_their_names(
    admin: Admin, broker: FakeBroker
) -> None:
    broker.cluster = cluster(leader="n2")
    for node in broker.cluster.nodes[:2]:
        node.warnings.append("no cluster_secret_file: the raft port is open")
    broker.cluster.nodes[2].warnings.append("something else")

    ran = admin("cluster-status")

    lines = [line.strip() for line in ran.stdout.splitlines() if "warning" in line]
    assert lines == [
        "warning: no cluster_secret_file: the raft port is open (n1, n2)",
        "warning: something else (n3)",
    ]


def test_without_a_leader_though_all_are_up_nobody_is_told_to_start_them(
    admin: Admin, broker: FakeBroker
) -> None:
    broker.cluster = cluster(leader="")

    ran = admin("cluster-status")

    assert ran.code == 3
    assert "each node says what it waits for" in ran.stderr
    assert "Start the missing" not in ran.stderr


def test_a_node_that_still_believes_in_a_dead_leader_is_not_believed(
    admin: Admin, broker: FakeBroker
) -> None:
    broker.cluster = cluster(leader="n1", down=("n1",))

    assert admin("cluster-status").code == 3


def test_the_first_address_that_knows_a_leader_is_believed(
    admin: Admin, broker: FakeBroker, address: str, nowhere: str
) -> None:
    broker.cluster = cluster(leader="n2")
    cut_off = FakeBroker()
    cut_off.cluster = cluster(leader="", down=("n2", "n3"), term=3)
    with serving(cut_off) as lonely:
        ran = admin("cluster-status", "-o", "json", to=f"{nowhere},{lonely},{address}")

    assert ran.code == 0
    assert (ran.json["asked"], ran.json["leader_id"]) == (address, "n2")


def outside(role: NodeStatus.Role.ValueType) -> FakeBroker:
    """n3, which takes no part in the cluster that n2 leads."""
    broker = FakeBroker()
    broker.cluster = cluster(leader="n2")
    broker.cluster.nodes[2].role = role
    for field in ("cluster_id", "leader_id", "term"):
        broker.cluster.ClearField(field)
    broker.cluster.asked_node_id = "n3"
    return broker


@pytest.mark.parametrize("role", [NodeStatus.ROLE_STRANGER, NodeStatus.ROLE_FORMING])
def test_what_an_outsider_knows_of_the_cluster_is_not_shown_as_the_clusters(
    admin: Admin, role: NodeStatus.Role.ValueType
) -> None:
    with serving(outside(role)) as stranger:
        ran = admin("cluster-status", to=stranger)

    heading = dict(line.split(maxsplit=1) for line in ran.stdout.splitlines()[:3])
    assert ran.code == 0
    assert heading["cluster"].strip() == "not known to n3, which is no part of it"
    assert (heading["leader"].strip(), heading["term"].strip()) == ("n2", "4")
    assert f"{stranger}, an outsider: ask another broker with --address" in ran.stdout


def test_a_member_is_believed_rather_than_an_outsider(
    admin: Admin, broker: FakeBroker, address: str
) -> None:
    broker.cluster = cluster(leader="n2")
    with serving(outside(NodeStatus.ROLE_STRANGER)) as stranger:
        ran = admin("cluster-status", "-o", "json", to=f"{stranger},{address}")

    assert (ran.json["asked"], ran.json["cluster_id"]) == (address, "c1")


def test_brokers_that_form_their_cluster_are_no_outsiders(admin: Admin, broker: FakeBroker) -> None:
    broker.cluster = cluster(leader="", down=("n2", "n3"))
    broker.cluster.nodes[0].role = NodeStatus.ROLE_FORMING
    broker.cluster.asked_node_id = "n1"

    ran = admin("cluster-status")

    assert ran.code == 3
    assert "no part of it" not in ran.stdout


def test_an_address_that_accepts_and_says_nothing_does_not_hold_up_the_next(
    admin: Admin, address: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()

        ran = admin("submit", "q", "t", to=f"{host}:{port},{address}")

    assert ran.code == 0


@pytest.mark.parametrize(
    "command", [["cluster-status"], ["list"], ["submit", "q", "t"], ["queues", "list"]]
)
def test_where_nobody_answers_every_command_says_so_and_exits_with_3(
    admin: Admin, nowhere: str, command: list[str]
) -> None:
    ran = admin(*command, to=nowhere)

    assert (ran.code, ran.stdout) == (3, "")
    first, second = ran.stderr.splitlines()
    assert f"no broker answered ({nowhere}: Connection refused)" in first
    assert "--address" in second


def test_a_cluster_without_a_leader_is_named_as_the_cause(
    admin: Admin, broker: FakeBroker, address: str
) -> None:
    broker.before = lambda context: refuse(
        context, grpc.StatusCode.UNAVAILABLE, "NO_LEADER", "no leader was found in time"
    )

    ran = admin("list", "--timeout", "600ms")

    assert ran.code == 3
    assert ran.stderr.splitlines() == [
        (
            "tq-admin: cannot list tasks: NO_LEADER: no answer within 0.6 s; "
            f"{address}: no leader was found in time"
        ),
        "See who is missing with: tq-admin cluster-status",
    ]


def test_an_outcome_that_stays_unknown_is_told_apart_from_a_no(
    admin: Admin, broker: FakeBroker
) -> None:
    broker.before = lambda context: refuse(
        context, grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN", "the leader was lost"
    )

    ran = admin("submit", "q", "t", "--timeout", "600ms")

    assert ran.code == 3
    assert "OUTCOME_UNKNOWN" in ran.stderr
    assert "It may have been done" in ran.stderr


def test_a_fault_of_the_tool_is_one_line_and_no_traceback(
    admin: Admin, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_admin.cluster.plain", lambda message: 1 / 0)

    ran = admin("cluster-status")

    assert ran.code == 1
    assert "ZeroDivisionError" in ran.stderr
    assert "TQ_DEBUG=1" in ran.stderr


def test_the_option_after_the_command_wins_over_the_one_before_and_over_the_environment(
    admin: Admin, broker: FakeBroker, address: str, nowhere: str
) -> None:
    broker.cluster = cluster(leader="n2")

    assert admin("-a", address, "cluster-status", to=nowhere).code == 0
    assert admin("-a", nowhere, "cluster-status", "-a", address, to=nowhere).code == 0


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:", ":7001", "h:0", "h:70000", ","])
def test_an_address_that_is_none_is_wrong_usage(admin: Admin, address: str) -> None:
    ran = admin("list", "--address", address)

    assert ran.code == 2
    said = " ".join(ran.stderr.replace("│", " ").split())
    assert "host:port" in said or "right is 1 to 65535" in said


def test_the_help_names_the_exit_codes(admin: Admin) -> None:
    assert "Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3" in admin("--help").stdout


def test_leadership_is_handed_to_whom_it_says(admin: Admin) -> None:
    assert admin("transfer-leadership", "n3", "-o", "json").json == {"leader_id": "n3"}


def test_a_brokers_version_and_features_are_shown(admin: Admin, broker: FakeBroker) -> None:
    broker.info.version, broker.info.node_id = "1.2.3", "n1"
    broker.info.cluster_version, broker.info.cluster_version_max = 2, 3
    broker.info.features.extend(["if-exists", "verify-state"])
    broker.info.limits.payload_bytes_max = 10_000_000
    broker.info.limits.request_id_window.FromSeconds(600)

    ran = admin("server-info")

    lines = re.findall(r"^(.+?)  +(.+?) *$", ran.stdout, re.MULTILINE)
    shown = {name.strip(): value for name, value in lines}
    assert shown["version"] == "1.2.3"
    assert shown["cluster version"] == "2"
    assert shown["features"] == "if-exists, verify-state"
    assert shown["payload at most"] == "10.0 MB"
    said = admin("server-info", "-o", "json").json
    assert (said["version"], said["cluster_version_max"]) == ("1.2.3", 3)
    assert said["features"] == ["if-exists", "verify-state"]


def test_a_broker_that_waits_for_its_cluster_says_so(admin: Admin, broker: FakeBroker) -> None:
    broker.info.node_id = "n1"

    assert "not known yet" in admin("server-info").stdout


def test_a_broker_without_server_info_is_named_as_older(admin: Admin, broker: FakeBroker) -> None:
    broker.before = lambda context: context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")

    ran = admin("server-info")

    assert ran.code == 1
    assert "another version" in ran.stderr


def test_wide_shows_versions_latencies_and_what_is_on_the_disks(
    admin: Admin, broker: FakeBroker
) -> None:
    broker.cluster = cluster(leader="n2", down=("n3",))
    node = broker.cluster.nodes[1]
    node.version, node.journal_bytes, node.disk_free_bytes = "0.9.1", 4_900_000, 80_800_000_000
    node.fsync_p50.FromMicroseconds(400)
    node.fsync_p99.FromMicroseconds(11_200)
    node.loop_hold_max.FromMicroseconds(53_000)
    node.started_at.GetCurrentTime()

    lines = admin("cluster-status", "--wide").stdout.splitlines()

    rows = [line.split() for line in lines if line.strip().startswith(("n2", "n3"))]
    shown = "n2 0.9.1 0 s 0.40 ms 11 ms 53 ms 4.9 MB 0 B 80.8 GB"
    assert rows[2] == shown.split()
    assert rows[3] == ["n3", *["-"] * 8]
