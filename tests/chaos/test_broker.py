"""A broker that runs as a process of the chaos suite."""

from __future__ import annotations

import logging
from pathlib import Path

from chaos.cluster.broker import BrokerProcess, NodeSetup
from tq_cluster.telemetry.logs import keys_of
from tq_common.log_lines import TextFormatter


def test_what_a_broker_complains_of_is_what_it_logs_as_an_error(tmp_path: Path) -> None:
    broker = BrokerProcess("n1", tmp_path, {"n1": {"api": "", "raft": ""}}, setup=NodeSetup())
    handler = logging.FileHandler(broker.log_path)
    handler.setFormatter(TextFormatter(keys_of, "n1"))
    logger = logging.getLogger("tq.broker under test")
    logger.addHandler(handler)

    logger.info("ready")
    logger.warning("the last run failed", extra={"why": "Internal error - no more space"})
    logger.error("call failed")
    logger.critical("the node stops", extra={"reason": "the disk"})
    try:
        int("why")
    except ValueError:
        logger.exception("it broke")
    logger.removeHandler(handler)
    handler.close()

    complaints = [line.partition("n1 ")[2] or line for line in broker.complaints()]
    assert complaints == [
        "error    call failed",
        'critical the node stops reason="the disk"',
        "error    it broke",
        "Traceback (most recent call last):",
    ]
