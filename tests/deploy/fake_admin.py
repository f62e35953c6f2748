"""A fake tq-admin whose cluster is a JSON file, and a fake host that restarts its nodes.

python fake_admin.py STATE [--output json] cluster-status | transfer-leadership NODE | restart NODE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(path: Path, command: list[str]) -> None:
    """Do what tq-admin or systemctl would do, and record it."""
    state = json.loads(path.read_text())
    match command:
        case ["cluster-status"]:
            print(json.dumps(state["status"]))  # noqa: T201  # its output
            return
        case ["transfer-leadership", node_id]:
            state["status"]["leader_id"] = node_id
        case ["restart", node_id]:
            [node] = [node for node in state["status"]["nodes"] if node["node_id"] == node_id]
            node["started_at"] += " again"
        case _:
            sys.exit(f"unknown: {command}")
    state["done"].append(" ".join(command))
    path.write_text(json.dumps(state))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [word for word in sys.argv[2:] if word not in {"--output", "json"}])
