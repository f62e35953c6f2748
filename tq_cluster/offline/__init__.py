"""What is done to disks while no broker runs: restore from a backup, recover what is left."""
