"""The commands of tq-worker."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tq_process.settings.command import Commands
from tq_process.settings.plugins import without_plugins
from tq_process.settings.setting import SettingsError
from tq_worker.api.errors import UsageError
from tq_worker.cli.complain import complain
from tq_worker.cli.settings import SETTINGS
from tq_worker.wire import exits

if TYPE_CHECKING:
    from tq_worker.cli.config import Attempt, WorkerConfig

app = typer.Typer(
    help="A worker of the replicated task queue tq.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

_commands = Commands(
    app,
    SETTINGS,
    file_help="The worker's file (YAML).",
    default_of=lambda setting: setting.default,
)

Flags = Mapping[tuple[str, ...], str]


def _load(path: Path | None, environment: Mapping[str, str], flags: Flags) -> WorkerConfig:
    # Here, so that the list of commands needs no pydantic. Its plugins are for handlers, which run
    # in processes of their own.
    with without_plugins():
        from tq_worker.cli import config  # noqa: PLC0415
    return config.load(path, environment, flags)


def _attempt(path: Path | None, environment: Mapping[str, str], flags: Flags) -> Attempt:
    # As above.
    with without_plugins():
        from tq_worker.cli import config  # noqa: PLC0415
    return config.attempt(path, environment, flags)


@_commands.command("run", _load)
def run(settings: WorkerConfig) -> None:
    """Claim tasks from queues and run their handlers, until SIGTERM or Ctrl-C.

    The worker then stops claiming, lets running handlers finish, and gives the rest back. It does
    not wait for them after a second signal. The file is overridden by the environment, the
    environment by flags.
    """
    # Here, so that the other commands start without gRPC.
    from tq_worker.cli.run import run as work  # noqa: PLC0415

    raise typer.Exit(work(settings))


@_commands.command("check", _attempt)
def check(attempt: Attempt) -> None:
    """Say whether `run` would start, without starting it: imports the handlers and lists them.

    They are imported in a process of their own. No broker is needed.
    """
    # As above.
    from tq_worker.cli import check as checking  # noqa: PLC0415

    for line in checking.check(attempt):
        typer.echo(line)


@_commands.command("check-config", _load)
def check_config(settings: WorkerConfig) -> None:
    """Say what `run` would make of the same flags, file and environment.

    Handlers are not imported: `check` does that.
    """
    typer.echo(settings.model_dump_json(indent=2))


@app.command()
def version() -> None:
    """Say which version this is."""
    # As above.
    from importlib import metadata  # noqa: PLC0415

    typer.echo(f"tq-worker {metadata.version('tq')}")


def main() -> None:
    """Run the command line; exits 0 after an orderly end, else as `exits` says."""
    try:
        app()
    except SettingsError as error:
        complain([str(error)])
        sys.exit(exits.USAGE)
    except UsageError as error:
        complain(error.problems)
        sys.exit(exits.USAGE)
