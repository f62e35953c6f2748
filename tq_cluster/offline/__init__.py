"""Work on disks while no broker runs: restore from a backup, recover what survives."""
