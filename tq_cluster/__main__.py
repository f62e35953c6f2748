"""The command tq-cluster."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from tq_cluster import config, dev
from tq_cluster.errors import StartError

# gRPC's C core writes its own lines to standard error; what matters of them arrives as errors.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

EXIT_NOT_SERVING = 1
EXIT_REFUSED = 2
BASE_PORT_MAX = config.PORT_MAX - dev.RAFT_PORT_OFFSET - config.MEMBERS_MAX

app = typer.Typer(
    help="A broker of the replicated task queue tq.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="The node's file (YAML).", show_default=False)
]
NodeId = Annotated[str | None, typer.Option(help="Overrides node_id.", show_default=False)]
DataDir = Annotated[str | None, typer.Option(help="Overrides data_dir.", show_default=False)]
ListenRaft = Annotated[
    str | None, typer.Option(help="Overrides listen.raft, HOST:PORT.", show_default=False)
]
ListenApi = Annotated[
    str | None, typer.Option(help="Overrides listen.api, HOST:PORT.", show_default=False)
]
LogFormat = Annotated[
    str | None, typer.Option(help="Overrides log.format: text or json.", show_default=False)
]
LogLevel = Annotated[str | None, typer.Option(help="Overrides log.level.", show_default=False)]
MetricsListen = Annotated[
    str | None, typer.Option(help="Overrides metrics_listen, HOST:PORT.", show_default=False)
]


def _load(
    path: Path | None,
    node_id: str | None,
    data_dir: str | None,
    listen_raft: str | None,
    listen_api: str | None,
    log_format: str | None,
    log_level: str | None,
    metrics_listen: str | None,
) -> config.NodeConfig:
    given = {
        ("node_id",): node_id,
        ("data_dir",): data_dir,
        ("listen", "raft"): listen_raft,
        ("listen", "api"): listen_api,
        ("log", "format"): log_format,
        ("log", "level"): log_level,
        ("metrics_listen",): metrics_listen,
    }
    flags = {field: value for field, value in given.items() if value is not None}
    return config.load(path, os.environ, flags)


@app.command()
def serve(
    config_file: ConfigFile = None,
    node_id: NodeId = None,
    data_dir: DataDir = None,
    listen_raft: ListenRaft = None,
    listen_api: ListenApi = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    metrics_listen: MetricsListen = None,
) -> None:
    """Run one broker until SIGTERM or Ctrl-C.

    The file is overridden by the environment (TQ_NODE_ID, TQ_DATA_DIR, TQ_MEMBERS,
    TQ_LISTEN_RAFT, TQ_LISTEN_API, TQ_CALLS_MAX, TQ_LOG_FORMAT, TQ_LOG_LEVEL, TQ_METRICS_LISTEN),
    the environment by flags.
    """
    settings = _load(
        config_file,
        node_id,
        data_dir,
        listen_raft,
        listen_api,
        log_format,
        log_level,
        metrics_listen,
    )
    # Here, so that the other commands start without gRPC.
    from tq_cluster import node  # noqa: PLC0415

    node.serve(settings)


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


@app.command("check-config")
def check_config(
    config_file: ConfigFile = None,
    node_id: NodeId = None,
    data_dir: DataDir = None,
    listen_raft: ListenRaft = None,
    listen_api: ListenApi = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    metrics_listen: MetricsListen = None,
) -> None:
    """Say what `serve` would make of the same flags, file and environment."""
    settings = _load(
        config_file,
        node_id,
        data_dir,
        listen_raft,
        listen_api,
        log_format,
        log_level,
        metrics_listen,
    )
    typer.echo(settings.model_dump_json(indent=2))


@app.command()
def health(
    address: Annotated[str, typer.Option(help="The broker's API, HOST:PORT.")] = "127.0.0.1:7001",
    service: Annotated[
        str, typer.Option(help="Such as tq.v1.TaskService. Default: all that needs a leader.")
    ] = "",
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.001, help="Seconds to wait for the answer.")
    ] = 3.0,
) -> None:
    """Say whether a broker could serve a call now; exits with 1 where it could not."""
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
    """Run the command; what the user can put right is said without a traceback."""
    try:
        app()
    except StartError as error:
        typer.echo(f"tq-cluster: {error}", err=True)
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
