"""The metrics of a PromQL expression, and the labels it selects and groups by."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import promql_parser
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$__interval": "15s"}
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "summary": ("", "_count", "_sum"),
}


@dataclass
class Asked:
    """The metrics and labels of one expression."""

    metrics: dict[str, set[str]] = field(default_factory=dict)
    """The labels of each metric that the expression selects by."""
    grouped_by: set[str] = field(default_factory=set)
    values: dict[str, set[str]] = field(default_factory=dict)
    """Values that a label must equal."""


def asked(expression: str) -> Asked:
    """Parse an expression, with a dashboard's variables filled in; ValueError if it is invalid."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    expression = re.sub(r"\$\w+", ".*", expression)
    found = Asked()

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            labels = found.metrics.setdefault(node.name or "", set())
            for matcher in node.matchers.matchers:
                labels.add(matcher.name)
                if matcher.op == promql_parser.MatchOp.Equal:
                    found.values.setdefault(matcher.name, set()).add(matcher.value)
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            found.grouped_by.update(node.modifier.labels)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def _families(collector: Collector) -> Iterable[Metric]:
    describe: Callable[[], Iterable[Metric]] = getattr(collector, "describe", collector.collect)
    return describe()


def documented(registry: CollectorRegistry) -> list[tuple[str, str, list[str], str]]:
    """Name, kind, labels and help of each metric, in the order in which they are exported."""
    return [
        (metric.name + SUFFIXES[metric.type][0].replace("_bucket", ""), metric.type, labels, help_)
        for collector in list(registry._collector_to_names)
        for metric in _families(collector)
        for labels in [list(_labels(collector, metric))]
        for help_ in [metric.documentation]
    ]


def _labels(collector: Collector, metric: Metric) -> tuple[str, ...]:
    own = getattr(collector, "_labelnames", ()) or getattr(metric, "_labelnames", ())
    return tuple(own)


def series_of(metrics: Iterable[Metric]) -> dict[str, set[str]]:
    """The series that metrics made at each scrape will have."""
    return {
        metric.name + suffix: {*getattr(metric, "_labelnames", ())}
        | ({"le"} if suffix == "_bucket" else set())
        for metric in metrics
        for suffix in SUFFIXES[metric.type]
    }


def exported(*registries: CollectorRegistry) -> dict[str, set[str]]:
    """The series that registries export, with their labels; children need not exist yet."""
    series: dict[str, set[str]] = {}
    for registry in registries:
        for collector in list(registry._collector_to_names):
            for metric in _families(collector):
                labels = set(_labels(collector, metric))
                labels.update(*(sample.labels for sample in metric.samples))
                for suffix in SUFFIXES[metric.type]:
                    extra = {"le"} if suffix == "_bucket" else set()
                    series[metric.name + suffix] = labels | extra
    return series
