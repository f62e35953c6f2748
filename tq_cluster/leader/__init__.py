"""The work of a leader: group commit, due times, leases, long polls."""
