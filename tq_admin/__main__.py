"""`tq-admin`: the operator's command line."""

from __future__ import annotations

import typer

from tq_admin import (
    backup,
    cluster,
    dead_letter_groups,
    dead_letters,
    members,
    monitor,
    queues,
    stats,
    submit,
    tasks,
    workers,
)
from tq_admin import verify as verifying
from tq_admin.command import AddressOption, Globals, OutputOption, TimeoutOption, command
from tq_process.streams import open_standard_streams

EPILOG = (
    "Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 no broker answered, or the cluster "
    "has no leader."
)

app = typer.Typer(
    name="tq-admin",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def remember_globals(
    ctx: typer.Context,
    address: AddressOption = None,
    output: OutputOption = None,
    timeout: TimeoutOption = None,
) -> None:
    """Submit tasks to a tq cluster, look after them and after the cluster."""
    ctx.obj = Globals(address=address, output=output, timeout=timeout)


command(app, "submit")(submit.submit)
command(app, "status", watchable=True)(tasks.status)
command(app, "list", watchable=True)(tasks.list_tasks)
command(app, "cancel")(tasks.cancel)
command(app, "retry")(dead_letters.retry)
command(app, "purge")(queues.purge)
command(app, "workers", watchable=True)(workers.list_workers)
command(app, "stats", watchable=True)(stats.stats)
command(app, "queue-depth", watchable=True)(stats.queue_depth)
command(app, "monitor")(monitor.monitor)
command(app, "cluster-status", watchable=True)(cluster.cluster_status)
command(app, "server-info")(cluster.server_info)
command(app, "transfer-leadership")(cluster.transfer_leadership)
command(app, "verify")(verifying.verify)
command(app, "replace-node")(members.replace_node)
command(app, "backup")(backup.backup)

queues_app = typer.Typer(no_args_is_help=True, help="What queues hold and how they behave.")
app.add_typer(queues_app, name="queues")
command(queues_app, "list", watchable=True)(queues.list_queues)
command(queues_app, "show", watchable=True)(queues.show)
command(queues_app, "configure")(queues.configure)
command(queues_app, "pause")(queues.pause)
command(queues_app, "resume")(queues.resume)
command(queues_app, "delete")(queues.delete)

dead_letters_app = typer.Typer(no_args_is_help=True, help="Tasks that were given up.")
app.add_typer(dead_letters_app, name="dead-letters")
command(dead_letters_app, "list", watchable=True)(dead_letters.list_dead_letters)
command(dead_letters_app, "groups")(dead_letter_groups.groups)
command(dead_letters_app, "show")(dead_letters.show)
command(dead_letters_app, "redrive")(dead_letters.redrive)
command(dead_letters_app, "delete")(dead_letters.delete)


def main() -> None:
    """Run the command line."""
    open_standard_streams()
    app()


if __name__ == "__main__":
    main()
