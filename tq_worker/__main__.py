"""The command tq-worker."""

from __future__ import annotations

import os

from tq_process.streams import open_standard_streams


def main() -> None:
    """Run it."""
    open_standard_streams()
    # gRPC's C core writes its own lines to standard error; what matters of them arrives as errors.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from tq_worker.cli import command  # noqa: PLC0415 - can import gRPC, which looks at the setting

    command.main()


if __name__ == "__main__":
    main()
