"""Histories in which an operator edits the brokers' files between restarts.

``python -m tests.simulation.play.edited_files FIRST COUNT`` runs many, and names those that fail.
"""

from __future__ import annotations

import logging
import random
import sys
from collections import Counter

from tests.simulation.play.cluster import LOAD_SLICE_S, Cluster, Load
from tests.simulation.play.faults import WEIGHTS
from tests.simulation.play.play import play
from tests.simulation.play.replacements import ANYTHING, write_members
from tests.simulation.play.runs import LOAD, simulate
from tests.simulation.play.story import History, Script, Story
from tests.simulation.world.host import Host
from tq_cluster.raft.settings import RaftSettings

EDIT = "edit"
EDIT_SOME = "edit_some"
CORRECT = "correct"
EMPTY_DISK = "empty_disk"
SCRIPT = Script(
    for_s=15.0,
    weights={**WEIGHTS, EDIT: 12, EDIT_SOME: 6, CORRECT: 12, EMPTY_DISK: 2},
    steady=((LOAD, LOAD_SLICE_S),),
)
STRANGERS = ("n8", "n9")


class Editor:
    """Edits files, restarts brokers with them, and corrects them again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._right = {host.name: dict(host.file) for host in cluster.machines}
        self.edited = 0
        self.refused = 0
        for host in cluster.machines:
            host.on_start.append(self._started)

    def edit(self, draw: random.Random) -> None:
        """Change one broker's file: other members, or the same at other addresses."""
        self._restart_on(draw.choice(self._cluster.machines), self._drawn(draw), draw)

    def edit_some(self, draw: random.Random) -> None:
        """Change several files in the same way, as a script would."""
        file = self._drawn(draw)
        for host in self._cluster.machines:
            if host.name in file and draw.random() < 0.8:
                self._restart_on(host, file, draw)

    def correct(self, draw: random.Random) -> None:
        """Correct one wrong file."""
        wrong = [host for host in self._cluster.machines if host.file != self._right[host.name]]
        if wrong:
            host = draw.choice(wrong)
            self._restart_on(host, self._right[host.name], draw)

    def empty_disk(self, draw: random.Random) -> None:
        """Start a broker with a wrong file on an empty disk for a while."""
        hosts = self._cluster.machines
        host = draw.choice(hosts)
        if any(other.has_old_disk for other in hosts):
            return
        self._cluster.note(f"{host.name} runs on an empty disk")
        host.keep_old_disk()
        host.lose_disk()
        host.lost_upto = ANYTHING
        host.file = self._as_its_own(host, self._drawn(draw))
        self._begin(host)
        self._cluster.loop.call_later(draw.uniform(0.5, 3.0), self._own_disk, host)

    def put_all_right(self) -> None:
        for host in self._cluster.machines:
            if host.file != self._right[host.name]:
                self._restart_on(host, self._right[host.name], random.Random(0))

    def _own_disk(self, host: Host) -> None:
        self._cluster.note(f"{host.name} runs on its own disk")
        host.swap_disks()
        host.forget_old_disk()
        self._begin(host)

    def _started(self, host: Host) -> None:
        # Until the journal is open again, the checker would read that of the empty disk.
        if not host.has_old_disk:
            host.lost_upto = 0

    def _drawn(self, draw: random.Random) -> dict[str, str]:
        """A wrong file, as a slip, a script or a planned change may leave it."""
        right = self._right[self._cluster.machines[0].name]
        names = sorted(right)
        match draw.choice(("some", "some", "more", "renamed", "swapped", "other order")):
            case "some":
                kept = draw.sample(names, draw.randint(1, len(names) - 1))
                return {name: right[name] for name in sorted(kept)}
            case "more":
                return {**right, **{name: f"{name}:7000" for name in STRANGERS}}
            case "renamed":
                gone = draw.choice(names)
                kept = [name for name in names if name != gone]
                return {**{name: right[name] for name in kept}, STRANGERS[0]: right[gone]}
            case "swapped":
                one, other = draw.sample(names, 2)
                return {**right, one: right[other], other: right[one]}
            case _:
                return dict(draw.sample(sorted(right.items()), len(right)))

    def _as_its_own(self, host: Host, file: dict[str, str]) -> dict[str, str]:
        """Keep the broker's own address in its file: a broker that cannot listen does not start."""
        return {name: self._right[name][name] if name == host.name else file[name] for name in file}

    def _restart_on(self, host: Host, file: dict[str, str], draw: random.Random) -> None:
        host.file = self._as_its_own(host, file)
        self._cluster.note(f"{host.name} is restarted with {', '.join(host.file)} in its file")
        self.edited += 1
        if host.up:
            host.kill()
        self._cluster.loop.call_later(draw.uniform(0.01, 0.5), self._begin, host)

    def _begin(self, host: Host) -> None:
        if not host.up and not host.disk.fail_syncs:
            host.begin()
            self.refused += bool(host.refused)


def edited_files_history(story: Story, *, settings: RaftSettings | None = None) -> History:
    """Edit files among all other faults, under load; then correct all files and stop the faults.

    The checker watches all the time: nothing that was acknowledged anywhere is ever lost.
    """
    load = Load(on=False)
    counts = {"edited": 0, "refused": 0}

    async def scenario(cluster: Cluster) -> None:
        cluster.load = load
        editor = Editor(cluster)
        await cluster.start()
        await write_members(cluster)
        kinds = {
            LOAD: lambda _: cluster.take_load(),
            EDIT: editor.edit,
            EDIT_SOME: editor.edit_some,
            CORRECT: editor.correct,
            EMPTY_DISK: editor.empty_disk,
        }
        await play(cluster, story.steps(SCRIPT), story, kinds)
        await cluster.until(
            "every host runs on its own disk",
            lambda: not any(host.has_old_disk for host in cluster.machines),
        )
        editor.put_all_right()
        counts.update(edited=editor.edited, refused=editor.refused)
        await cluster.settle()
        assert not cluster.deaths, f"nodes died: {cluster.deaths}"

    size = 5 if story.seed % 3 == 0 else 3
    error: Exception | None = None
    try:
        simulate(scenario, seed=f"files {story.seed}", size=size, skewed=True, settings=settings)
    except Exception as failure:  # noqa: BLE001 - any error is a finding of the seed
        error = failure
    return History(load.trace, {"acknowledged": load.acknowledged, **counts}, error)


def main(first: int, count: int) -> int:
    """Run seeds; print those that fail and a summary."""
    logging.disable(logging.CRITICAL)
    failed, total = 0, Counter[str]()
    for seed in range(first, first + count):
        happened = edited_files_history(Story(seed))
        total.update(happened.counts)
        if happened.error is not None:
            failed += 1
            sys.stdout.write(f"seed {seed}: {happened.failure}\n")
    sys.stdout.write(f"{count} seeds from {first}: {dict(total)}, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
