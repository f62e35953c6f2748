"""`tq-admin` against a fake broker."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.admin.fake_broker import FakeBroker, serving
from tests.cluster.fixtures import cluster
from tq_admin.__main__ import app

__all__ = ["Admin", "Ran", "cluster"]


@dataclass(frozen=True)
class Ran:
    """What a command printed and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - any printed value
        return json.loads(self.stdout)

    @property
    def yaml(self) -> Any:  # noqa: ANN401 - any printed value
        return yaml.safe_load(self.stdout)


Admin = Callable[..., Ran]


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def address(broker: FakeBroker) -> Iterator[str]:
    with serving(broker) as served:
        yield served


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address that nothing listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections and never answers, like a stopped broker."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def admin(address: str) -> Admin:
    """Run tq-admin against the fake broker, and check that it prints no traceback."""

    def run(*arguments: str, stdin: str | bytes = "", to: str = address) -> Ran:
        result = CliRunner().invoke(app, list(arguments), input=stdin, env={"TQ_ADDRESS": to})
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.stderr
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run
