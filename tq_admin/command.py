"""Common to every command: the global options, one cluster, one output, no tracebacks."""

from __future__ import annotations

import inspect
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

import typer

from tq_admin import values
from tq_admin.failures import ExitCode, Failure, nobody
from tq_admin.output import Format, Output
from tq_admin.session import Session
from tq_admin.watch import EVERY_MIN_S, watch
from tq_client import Client
from tq_common import durations
from tq_common.addresses import DEFAULT_ADDRESSES
from tq_common.visible import visible
from tq_process.span_option import span_option

ADDRESS_VARIABLE = "TQ_ADDRESS"
DEFAULT_TIMEOUT = "10s"
CONNECT_S = 1.0
PANEL = "Global options (before or after the command)"

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        "-a",
        metavar="HOST:PORT[,...]",
        help="Brokers to ask, in turn until one answers. "
        f"Default: ${ADDRESS_VARIABLE}, else {DEFAULT_ADDRESSES}.",
        rich_help_panel=PANEL,
    ),
]
OutputOption = Annotated[
    Format | None,
    typer.Option(
        "--output",
        "-o",
        help="A table for people, JSON or YAML for programs. Default: table.",
        rich_help_panel=PANEL,
    ),
]
TimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="SPAN",
        help=f"How long to try each call, over all addresses. Default: {DEFAULT_TIMEOUT}.",
        rich_help_panel=PANEL,
    ),
]
WatchOption = Annotated[
    float | None,
    span_option(
        "--watch",
        "-w",
        least_s=EVERY_MIN_S,
        help="Show it again so often, until q or Ctrl-C; as JSON, a reading a line.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """The global options as given in one place; None for those not given."""

    address: str | None = None
    output: Format | None = None
    timeout: str | None = None


Function = TypeVar("Function", bound=Callable[..., None])


def command(
    app: typer.Typer, name: str, *, watchable: bool = False
) -> Callable[[Function], Function]:
    """Register a function (session, *its own options) as a command of the app.

    A watchable one only reads, and has --watch.
    """

    def register(function: Function) -> Function:
        def run(
            ctx: typer.Context,
            address: AddressOption = None,
            output: OutputOption = None,
            timeout: TimeoutOption = None,
            watch: WatchOption = None,
            **own: Any,  # noqa: ANN401 - the function's own options, as typer parsed them
        ) -> None:
            here = Globals(address=address, output=output, timeout=timeout)
            _run(function, here, ctx, own, watch)

        _, *own_parameters = inspect.signature(function, eval_str=True).parameters.values()
        context, *global_parameters, every, _ = inspect.signature(
            run, eval_str=True
        ).parameters.values()
        repeating = [every] if watchable else []
        parameters = [context, *own_parameters, *repeating, *global_parameters]
        keyword_only = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters
        ]
        run.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined] # typer reads it
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, help=function.__doc__)(run)
        return function

    return register


def _run(
    function: Callable[..., None],
    here: Globals,
    ctx: typer.Context,
    own: dict[str, Any],
    every_s: float | None,
) -> None:
    try:
        session = _open(here, ctx.obj)
        with session.client:
            if every_s is None:
                function(session, **own)
            else:
                watch(session, every_s, ctx.command_path, partial(function, **own))
    except Failure as failure:
        typer.echo(f"tq-admin: {visible(failure.message)}", err=True)
        if failure.advice:
            typer.echo(visible(failure.advice), err=True)
        raise typer.Exit(failure.code) from None
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except BrokenPipeError:
        # The reader has seen enough (`| head`); the flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(ExitCode.OK) from None
    except Exception as error:
        if os.environ.get("TQ_DEBUG"):
            traceback.print_exc()
        fault = visible(f"{type(error).__name__}: {error}")
        typer.echo(f"tq-admin: internal error: {fault}", err=True)
        typer.echo("Run it again with TQ_DEBUG=1 in the environment to see where.", err=True)
        raise typer.Exit(ExitCode.FAILED) from error


def _open(here: Globals, before: Globals) -> Session:
    """The session that the options ask for; those after the command win."""
    given = here.address or before.address
    try:
        addresses = values.addresses(
            given or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESSES,
        )
    except ValueError as error:
        hint = "--address" if given else ADDRESS_VARIABLE
        raise typer.BadParameter(str(error), param_hint=hint) from None
    try:
        timeout = durations.parse(here.timeout or before.timeout or DEFAULT_TIMEOUT)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--timeout") from None
    timeout_s = timeout.total_seconds()
    _refuse_if_nobody_listens(addresses)
    return Session(
        client=Client(addresses, timeout_s=timeout_s),
        addresses=addresses,
        timeout_s=timeout_s,
        output=Output(here.output or before.output or Format.TABLE),
    )


def _refuse_if_nobody_listens(addresses: tuple[str, ...]) -> None:
    """Fail at once if no broker accepts connections; the client would try until the timeout."""
    causes = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            causes[address] = error.strerror or str(error)
        else:
            return
    raise nobody(causes)
