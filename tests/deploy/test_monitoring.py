"""Alerts and dashboard ask for metrics that exist, and Prometheus scrapes where they are served."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml

from tests.deploy.expressions import Asked, asked, documented, exported, series_of
from tq_cluster.telemetry.metrics import Metrics
from tq_cluster.telemetry.metrics_queues import ON_THE_LEADER
from tq_cluster.telemetry.metrics_tasks import WHERE_COUNTED
from tq_worker.status import metrics as worker_metrics
from tq_worker.telemetry.stats import QueueAndType, Stats

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "tq-cluster.json"
OWN_SERIES = {"up": set[str]()}
"""What Prometheus records of the scraping itself."""
SAYS_NOTHING = {"process_virtual_memory_bytes"}
"""A broker reserves the map of the state once, however much the map holds."""
TOLD = (ROOT / "docs" / "monitoring.md").read_text()


@cache
def measured() -> dict[str, set[str]]:
    """Every series of brokers and of workers, with its labels."""
    idle = MagicMock(stats=Stats())
    idle.running.return_value = Counter[QueueAndType]()
    return exported(Metrics().registry) | series_of(worker_metrics.families(idle))


def _load(path: Path) -> Any:  # noqa: ANN401  # YAML holds any type
    return yaml.safe_load(path.read_text())


def alerts() -> list[dict[str, Any]]:
    groups = _load(DEPLOY / "prometheus" / "alerts.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def scrape_jobs() -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = _load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    return jobs


def target_labels() -> set[str]:
    """Labels that scraping adds to every series."""
    relabels = [rule for job in scrape_jobs() for rule in job.get("relabel_configs", [])]
    return {"job", "instance", *(rule["target_label"] for rule in relabels)}


def expressions() -> list[tuple[str, str]]:
    """Every expression, under a name for people."""
    of_alerts = [(rule["alert"], rule["expr"]) for rule in alerts()]
    of_panels = [
        (f"{panel['title']} {target['refId']}", target["expr"])
        for panel in panels()
        for target in panel.get("targets", [])
    ]
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    of_variables = [
        (f"${variable['name']}", variable["definition"].split("(")[1].split(",")[0])
        for variable in variables
    ]
    return of_alerts + of_panels + of_variables


def _said(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


@pytest.mark.parametrize(("name", "expression"), expressions())
def test_an_expression_asks_for_metrics_and_labels_that_exist(name: str, expression: str) -> None:
    series = measured() | OWN_SERIES
    wanted: Asked = asked(expression)

    unknown = wanted.metrics.keys() - series.keys()
    assert not unknown, f"{name}: nobody exports {_said(unknown)}"
    for metric, labels in wanted.metrics.items():
        strange = labels - series[metric] - target_labels()
        assert not strange, f"{name}: {metric} has no label {_said(strange)}"
    known_labels = set.union(target_labels(), *(series[metric] for metric in wanted.metrics))
    strange = wanted.grouped_by - known_labels
    assert not strange, f"{name}: groups by {_said(strange)}, which no metric there has"
    strange = wanted.values.get("job", set()) - {job["job_name"] for job in scrape_jobs()}
    assert not strange, f"{name}: nothing is scraped as job {_said(strange)}"


def test_every_metric_of_brokers_and_workers_is_on_the_dashboard() -> None:
    shown = {metric for _, expression in expressions() for metric in asked(expression).metrics}

    unseen = {
        metric
        for metric in measured()
        if not {metric, *(metric.removesuffix(end) + "_bucket" for end in ("_sum", "_count"))}
        & shown
    } - SAYS_NOTHING

    assert not unseen, f"measured, and shown to nobody: {_said(unseen)}"


@pytest.mark.parametrize(
    ("section", "remark"),
    [
        ("### What became of tasks", WHERE_COUNTED),
        ("### What queues hold and who works", ON_THE_LEADER),
        ("### Each broker", ""),
    ],
)
def test_every_metric_stands_in_the_docs_as_the_code_has_it(section: str, remark: str) -> None:
    others = {WHERE_COUNTED, ON_THE_LEADER} - {remark}
    wanted = [
        f"| `{name}` | {kind} | {', '.join(labels)} | {help_.removesuffix(remark)} |"
        for name, kind, labels, help_ in documented(Metrics().registry)
        if help_.endswith(remark) and (remark or not help_.endswith(tuple(others)))
    ]

    told = TOLD.split(section)[1].split("\n#")[0]
    found = [line for line in told.splitlines() if line.startswith("| `")]

    assert sorted(found) == sorted(wanted), "\n".join(["the table should be:", *wanted])


def test_a_metric_that_nobody_exports_is_noticed() -> None:
    series = measured()

    assert "tq_commit_seconds_bucket" in series
    assert "tq_commit_seconds" not in series
    wanted = asked('sum by (node, le) (rate(tq_comit_seconds_bucket{node=~"$node"}[5m]))')
    assert wanted.metrics == {"tq_comit_seconds_bucket": {"node"}}
    assert wanted.grouped_by == {"node", "le"}


def test_every_alert_says_what_is_wrong_how_urgent_it_is_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule
        assert rule["annotations"].keys() == {"summary", "description"}, rule
        assert f"| `{rule['alert']}` |" in TOLD, f"docs/monitoring.md says nothing of {rule}"
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)


def test_panels_have_a_data_source_that_is_provisioned_and_a_place_of_their_own() -> None:
    sources = _load(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")
    uids = {source["uid"] for source in sources["datasources"]}
    taken: dict[tuple[int, int], str] = {}
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert 0 <= x < 24, panel["title"]
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
        for source in [panel, *panel.get("targets", [])]:
            assert panel["type"] == "row" or source["datasource"]["uid"] in uids, panel["title"]


def test_prometheus_scrapes_every_process_of_the_compose_file_where_it_serves_metrics() -> None:
    compose = _load(ROOT / "docker-compose.cluster.yml")
    served = {
        f"{name}:{service['environment']['TQ_METRICS_LISTEN'].rpartition(':')[2]}"
        for name, service in compose["services"].items()
        if "TQ_METRICS_LISTEN" in service.get("environment", {})
    }

    assert {
        target
        for job in scrape_jobs()
        for static in job["static_configs"]
        for target in static["targets"]
    } == served
    assert len(served) == 5


def test_what_prometheus_and_grafana_are_told_to_read_exists() -> None:
    compose = _load(ROOT / "docker-compose.cluster.yml")
    rules = _load(DEPLOY / "prometheus" / "prometheus.yml")["rule_files"]
    mounts = [
        volume.split(":")
        for name in ("prometheus", "grafana")
        for volume in compose["services"][name]["volumes"]
        if volume.startswith("./")
    ]
    [provider] = _load(DEPLOY / "grafana/provisioning/dashboards/tq.yml")["providers"]

    assert [name for name in rules if not (DEPLOY / "prometheus" / name).is_file()] == []
    assert [source for source, _, _ in mounts if not (ROOT / source).is_dir()] == []
    [dashboards] = [source for source, to, _ in mounts if to == provider["options"]["path"]]
    assert DASHBOARD.parent == ROOT / dashboards
