"""Print a table: each rule, its test, and what goes wrong without it.

Usage: python -m tests.raft.rules_off
"""

from __future__ import annotations

import logging
import sys

from tests.raft.rules import RULES


def main() -> int:
    logging.disable(logging.CRITICAL)
    sys.stdout.write("| rule | test | what it shows with the rule off |\n| --- | --- | --- |\n")
    unshown = 0
    for rule in RULES:
        broken = rule.scenario(with_rule=True)
        shown = rule.scenario(with_rule=False)
        if broken:
            shown = f"BROKEN WITH THE RULE ON: {broken}"
        unshown += bool(broken) or not shown
        test = f"test_without_{rule.name.lower()}_{rule.test}"
        sys.stdout.write(f"| {rule.name} | {test} | {shown or 'NOTHING'} |\n")
    return 1 if unshown else 0


if __name__ == "__main__":
    sys.exit(main())
