from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tq_process.span_option import span_option

app = typer.Typer()


@app.command()
def wait(
    span: Annotated[
        float, span_option("--wait", least_s=0.2, default="10m", help="How long.")
    ] = 600.0,
) -> None:
    typer.echo(f"{span:g}")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], 600),
        (["--wait", "500ms"], 0.5),
        (["--wait", "2h"], 7200),
        (["--wait", "30"], 30),
        (["--wait", "0.2"], 0.2),
    ],
)
def test_a_length_of_time_has_a_unit_or_is_in_seconds(given: list[str], expected: float) -> None:
    ran = CliRunner().invoke(app, given)

    assert (ran.exit_code, float(ran.stdout)) == (0, expected)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("5x", "not a length of time"),
        ("-1", "not a length of time"),
        ("100ms", "0.2s is the least"),
        ("4000d", "at most 3660 d"),
    ],
)
def test_another_one_is_wrong_usage_of_the_option(given: str, reason: str) -> None:
    ran = CliRunner().invoke(app, ["--wait", given])

    assert ran.exit_code == 2
    assert "--wait" in ran.output
    assert reason in " ".join(ran.output.replace("│", " ").split())


def test_the_help_writes_the_default_with_its_unit() -> None:
    assert "How long. Default: 10m." in CliRunner().invoke(app, ["--help"]).output
