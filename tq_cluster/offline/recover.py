"""tq-cluster recover: shows what the surviving disks hold, and backs up the most complete one."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from tq_cluster.clock import Clock
from tq_cluster.errors import StartError
from tq_cluster.offline.recovering import Recovered, choose, judged, recover
from tq_cluster.raft.inspection import Survivor, inspect
from tq_cluster.storage.backup import Maker

SHOWN_MAX = 20

Say = Callable[[str], None]
Ask = Callable[[str], str]


def run(
    disks: Sequence[Path],
    target: Path | None,
    *,
    agreed: str,
    pause_queues: bool,
    clock: Clock,
    say: Say,
    ask: Ask,
) -> None:
    """Show what the disks hold; if ``target`` is given and the operator agrees, recover.

    ``agreed`` is the cluster's id, given beforehand; otherwise ``ask`` has it typed.
    """
    survivors = judged([inspect(path) for path in disks])
    say("What the disks hold:\n" + "\n".join(map(_shown, survivors)))
    chosen = choose(survivors)
    _require_need(survivors, chosen)
    if first := _to_try_first(survivors, chosen):
        say(first)
    say(_prospect(survivors, chosen, pause_queues=pause_queues))
    if target is None:
        say("Nothing was changed. To go on, say where to with --backup FILE.")
        return
    report_path = target.with_name(f"{target.name}.report.json")
    _require_place(target, report_path, disks)
    _confirm(chosen.cluster_id, agreed, ask)
    maker = Maker(
        node_id=chosen.node_id,
        version=metadata.version("tq"),
        made_at_ms=clock.wall_ms(),
        backup_id=uuid.uuid4().hex,
        log_time_wall_ms=chosen.written_at_ms,
    )
    recovered = recover(chosen, target, maker, pause_queues=pause_queues)
    report = json.dumps(_report(survivors, chosen, recovered), indent=1) + "\n"
    try:
        report_path.write_text(report)
    except OSError as error:
        say(report)
        why = error.strerror or error
        raise StartError(
            f"{target} is whole, but its report, above, could not be written: {why}"
        ) from error
    say(_outcome(chosen, recovered, target, report_path))


def _require_place(target: Path, report: Path, disks: Sequence[Path]) -> None:
    for path in (target, report):
        if path.exists():
            raise StartError(f"{path} exists already: choose a name that is not taken")
    folder = target.parent.resolve()
    for disk in disks:
        if folder.is_relative_to(disk.resolve()):
            raise StartError(f"{target} is on a disk that is only to be read: put it elsewhere")


def _shown(survivor: Survivor) -> str:
    if survivor.applied is None or survivor.last is None:
        return f"  {survivor.path}: cannot be used: {survivor.fault}"
    applied, last = survivor.applied, survivor.last
    journal = f"entries {survivor.first_index} to {last.index}, the last of term {last.term}"
    decided, written = _instant(survivor.decided_ms), _instant(survivor.written_at_ms)
    lines = [
        f"  {survivor.path}: node {survivor.node_id} of cluster {survivor.cluster_id}",
        f"    state    up to entry {applied.index} of term {applied.term}",
        f"    journal  {journal}; it heard of term {survivor.term}",
        f"    times    last decision at {decided}, last written {written}",
    ]
    if survivor.fault:
        lines.append(f"    cannot be used: {survivor.fault}")
    return "\n".join(lines)


def _require_need(survivors: Sequence[Survivor], chosen: Survivor) -> None:
    """Refuse if a majority is left: starting it loses nothing, and a recovery might."""
    sound = {each.node_id for each in survivors if each.starts}
    if len(sound) > len(chosen.members) // 2:
        raise StartError(
            f"{', '.join(sorted(sound))} are a majority of {', '.join(sorted(chosen.members))}:"
            " nothing is lost, start them; a recovery would take what they agree on apart"
        )


def _to_try_first(survivors: Sequence[Survivor], chosen: Survivor) -> str:
    """Describe what to try first if a disk's state is damaged but its journal may not be."""
    sound = {each.node_id for each in survivors if not each.fault}
    rebuilt = {
        each.node_id
        for each in survivors
        if each.rebuilds
        and each.identity is not None
        and chosen.members.get(each.node_id) == each.identity.incarnation
    } - sound
    if not rebuilt or len(sound | rebuilt) <= len(chosen.members) // 2:
        return ""
    names = ", ".join(sorted(rebuilt))
    return (
        f"\nBefore anything else: start {', '.join(sorted(sound | rebuilt))}. The state of {names}"
        " is damaged, its journal may not be: started, it takes the others' state, and with it a"
        " majority of the disks is left and nothing is lost. Go on here only if no leader comes of"
        " it: what that journal alone holds is left out below."
    )


def _prospect(survivors: Sequence[Survivor], chosen: Survivor, *, pause_queues: bool) -> str:
    assert chosen.applied is not None
    assert chosen.last is not None
    applied, last = chosen.applied.index, chosen.last.index
    named = {each.node_id for each in survivors if not each.fault}
    missing = ", ".join(sorted(set(chosen.members) - named))
    taken, kept = "Its state becomes a backup, its journal holds nothing beyond it.", ""
    if last > applied:
        beyond = f"entries {applied + 1} to {last}"
        taken = f"Its state and {beyond}, which its journal holds beyond it, become a backup."
        kept = (
            f" Of {beyond} it is not known whether a majority had them; they are kept, so that"
            " calls which heard nothing may have been applied."
        )
    waiting = (
        "Every queue is paused; what waits runs once its queue is resumed."
        if pause_queues
        else "Those that wait run, also where they were claimed or done in what is lost"
        " (--pause-queues holds them back)."
    )
    return (
        f"\nWhat would be done: the disk of {chosen.node_id} has most. {taken} The disks are only"
        " read.\n"
        f"What is certain: everything acknowledged until {_instant(chosen.certain_ms)} (log time),"
        f" which is up to entry {applied}.\n"
        f"What may be lost: whatever {missing} agreed on without {chosen.node_id} after that"
        f" instant.{kept}\n"
        "What becomes of tasks: those that ran are not run again. They become dead letters with the"
        f" reason UNCERTAIN. {waiting}\n"
        "The new cluster has another id, its tokens are above all that were handed out, and it"
        " takes in no disk of the old one."
    )


def _confirm(cluster_id: str, agreed: str, ask: Ask) -> None:
    if agreed:
        given = agreed
    elif sys.stdin.isatty():
        given = ask(f"Type the cluster's id ({cluster_id}) to go on")
    else:
        raise StartError(f"nobody is there to agree: say so beforehand with --yes {cluster_id}")
    if given != cluster_id:
        raise StartError(f"{given} is not this cluster's id, {cluster_id}: nothing was changed")


def _outcome(chosen: Survivor, recovered: Recovered, target: Path, report: Path) -> str:
    listed = "\n".join(f"  {task_id}" for task_id in recovered.uncertain[:SHOWN_MAX])
    more = len(recovered.uncertain) - SHOWN_MAX
    rest = f"\n  and {more} more, in the report" if more > 0 else ""
    return (
        f"\n{target} holds what the disk of {chosen.node_id} held; {report} says what was found.\n"
        f"{len(recovered.uncertain)} tasks ran when the cluster was lost and are dead letters now"
        f" (UNCERTAIN){':' if listed else '.'}\n{listed}{rest}\n"
        "Next: on every broker move the old data directory away, run tq-cluster restore --backup"
        f" {target} --config FILE, and start it. Then look at tq-admin dead-letters"
        " list --reason UNCERTAIN, and redrive what did not finish."
    )


def _report(
    survivors: Sequence[Survivor], chosen: Survivor, recovered: Recovered
) -> dict[str, object]:
    assert chosen.applied is not None
    assert chosen.last is not None
    return {
        "cluster_id": chosen.cluster_id,
        "chosen": str(chosen.path),
        "certain_up_to_entry": chosen.applied.index,
        "certain_until": _instant(chosen.certain_ms),
        "kept_up_to_entry": chosen.last.index,
        "uncertain_task_ids": list(recovered.uncertain),
        "disks": [
            {
                "path": str(each.path),
                "node_id": each.node_id,
                "state_index": each.applied.index if each.applied else None,
                "last_index": each.last.index if each.last else None,
                "last_term": each.last.term if each.last else None,
                "fault": each.fault,
            }
            for each in survivors
        ],
    }


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
