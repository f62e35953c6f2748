"""A lone caller beside the sweep, in a process of its own: a line for each of its submits.

`python -m benchmarks.sweep.prober ADDRESS...`; a line holds when the submit began on the machine's
monotonic clock, how long it took, and, if it failed, why.
"""

from __future__ import annotations

import sys
import time

import grpc

from tq.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc

EVERY_S = 0.05
CALL_S = 30.0


def main() -> None:
    """Submit one task every 50 ms until the reader of the lines goes away."""
    stubs = [
        task_service_pb2_grpc.TaskServiceStub(
            grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        )
        for address in sys.argv[1:]
    ]
    turn = 0
    task = task_pb2.TaskSpec(queue="probe", type="probe")
    request = task_service_pb2.SubmitRequest(tasks=[task])
    while True:
        begun_s, failed = time.monotonic(), ""
        try:
            stubs[turn % len(stubs)].Submit(request, timeout=CALL_S)
        except grpc.RpcError as error:
            failed = error.code().name
            turn += 1
        took_s = time.monotonic() - begun_s
        try:
            print(begun_s, took_s, failed, flush=True)
        except BrokenPipeError:
            return
        time.sleep(max(0.0, EVERY_S - took_s))


if __name__ == "__main__":
    main()
