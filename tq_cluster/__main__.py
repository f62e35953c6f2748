"""The command tq-cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from tq_cluster import config, dev
from tq_cluster.errors import StartError
from tq_cluster.raft import secret
from tq_common import addresses
from tq_common.visible import visible
from tq_process import signals
from tq_process.settings import load as loading
from tq_process.settings.command import Commands
from tq_process.span_option import span_option
from tq_process.streams import open_standard_streams

# gRPC's C core logs to standard error; what matters of its lines is also raised as errors.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

EXIT_NOT_SERVING = 1
EXIT_REFUSED = 2
BASE_PORT_MAX = addresses.PORT_MAX - dev.RAFT_PORT_OFFSET - config.MEMBERS_MAX

app = typer.Typer(
    help="A broker of the replicated task queue tq.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

_commands = Commands(
    app,
    config.SETTINGS,
    file_help="The node's file (YAML).",
    default_of=partial(loading.default_of, config.NodeConfig),
)


def _say(text: str) -> None:
    """Print text from files that others may have made."""
    typer.echo(visible(text, lines=True))


@_commands.command("serve", config.load, reads_again=True)
def serve(settings: config.NodeConfig, read_again: Callable[[], config.NodeConfig]) -> None:
    """Run one broker until SIGTERM or Ctrl-C.

    The file is overridden by the environment, the environment by flags. SIGHUP has it read again.
    """
    signals.pass_over_all()
    # Here, so that the other commands start without gRPC.
    from tq_cluster.node import node  # noqa: PLC0415

    node.serve(settings, read_again)


@app.command("dev")
def dev_command(
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("tq-data"),
    nodes: Annotated[
        int, typer.Option(min=1, max=config.MEMBERS_MAX, help="How many brokers.")
    ] = 3,
    base_port: Annotated[
        int, typer.Option(min=1, max=BASE_PORT_MAX, help="API ports from here; raft 100 above.")
    ] = 7001,
    restart: Annotated[
        bool, typer.Option(help="Start a broker that ended again after 1 s.")
    ] = False,
) -> None:
    """Run a whole cluster on loopback, one process a broker, until Ctrl-C."""
    raise typer.Exit(dev.run(data_dir, nodes, base_port, restart=restart))


@_commands.command("check-config", config.load)
def check_config(settings: config.NodeConfig) -> None:
    """Say what `serve` would make of the same flags, file and environment.

    Where the data directory can be read, also whether it is this node's, and of the same members.
    """
    # Here, so that the other commands start without the broker's parts.
    from tq_cluster.raft import members  # noqa: PLC0415

    try:
        members.check_file(
            settings.data_dir, settings.node_id, settings.members, single=settings.single
        )
    except OSError as error:
        typer.echo(f"{error.filename}: {error.strerror}: not looked into", err=True)
    if settings.cluster_secret_file is not None:
        secret.read(settings.cluster_secret_file)
    typer.echo(settings.model_dump_json(indent=2))


@app.command("draw-secret")
def draw_secret(
    file: Annotated[Path, typer.Argument(help="Where to, for `cluster_secret_file`.")],
) -> None:
    """Draw the secret that a cluster's brokers share. A file that exists is left as it is.

    Run it once, and give every broker the same file.
    """
    try:
        drawn = secret.draw(file)
    except OSError as error:
        raise StartError(
            f"{error.filename or file} cannot be written: {error.strerror}: name a file in a"
            " directory that can be written to"
        ) from error
    secret.read(file)
    typer.echo(f"{file} holds a new secret" if drawn else f"{file} is there and was left as it is")


@app.command("check-backup")
def check_backup(
    file: Annotated[Path, typer.Argument(help="What tq-admin backup wrote.")],
    scratch: Annotated[
        Path | None,
        typer.Option(help="Where there is room for the state meanwhile. Default: beside FILE."),
    ] = None,
) -> None:
    """Check every byte and row of a backup and say what it holds."""
    # Here, so that the other commands start without the broker's parts.
    from tq_cluster.offline import restore  # noqa: PLC0415

    _say(restore.check(file, scratch))


@_commands.command("restore", config.load)
def restore_command(
    settings: config.NodeConfig,
    backup: Annotated[Path, typer.Option(help="What tq-admin backup wrote.")],
) -> None:
    """Make the data directory of one member of a new cluster of a backup.

    Run it for every member, on the same file; then start them. data_dir has to be empty.
    """
    # As above.
    from tq_cluster.clock import SystemClock  # noqa: PLC0415
    from tq_cluster.offline import restore  # noqa: PLC0415

    _say(restore.restore(backup, settings, SystemClock()))


@app.command("recover")
def recover_command(
    disk: Annotated[
        list[Path], typer.Option(help="A data directory that is left; give all of them.")
    ],
    backup: Annotated[
        Path | None, typer.Option(help="Where to. Without it, it is only looked.")
    ] = None,
    yes: Annotated[
        str, typer.Option(metavar="CLUSTER_ID", help="Agree beforehand, by the cluster's id.")
    ] = "",
    pause_queues: Annotated[
        bool, typer.Option(help="Start the new cluster with every queue paused.")
    ] = False,
) -> None:
    """Make a backup of what is left when a majority of the disks is gone for good.

    Shows what each disk holds, what may be lost and what becomes of tasks, and asks. `restore`
    then makes a new cluster of the backup. The disks are only read.
    """
    # As above.
    from tq_cluster.clock import SystemClock  # noqa: PLC0415
    from tq_cluster.offline import recover  # noqa: PLC0415

    recover.run(
        disk,
        backup,
        agreed=yes,
        pause_queues=pause_queues,
        clock=SystemClock(),
        say=_say,
        ask=lambda question: str(typer.prompt(question)),
    )


@app.command()
def health(
    address: Annotated[str, typer.Option(help="The broker's API, HOST:PORT.")] = "127.0.0.1:7001",
    service: Annotated[
        str, typer.Option(help="Such as tq.v1.TaskService. Default: all that needs a leader.")
    ] = "",
    timeout_s: Annotated[
        float,
        span_option(
            "--timeout", least_s=0.001, default="3s", help="How long to wait for the answer."
        ),
    ] = 3.0,
) -> None:
    """Say whether a broker could serve a call now; exits with 1 where it could not."""
    try:
        addresses.split(address)
    except ValueError as error:
        raise typer.BadParameter(f"{address!r}: {error}", param_hint="--address") from None
    # Here, so that the other commands start without gRPC.
    from tq_cluster import probe  # noqa: PLC0415

    serving, answer = probe.ask(address, service, timeout_s)
    typer.echo(f"{address}: {answer}", err=not serving)
    if not serving:
        raise typer.Exit(EXIT_NOT_SERVING)


@app.command()
def version() -> None:
    """Say which version this is."""
    typer.echo(f"tq-cluster {metadata.version('tq')}")


def main() -> None:
    """Run the command; errors that the user can correct are printed without a traceback."""
    open_standard_streams()
    try:
        app()
    except StartError as error:
        typer.echo(visible(f"tq-cluster: {error}", lines=True), err=True)
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
