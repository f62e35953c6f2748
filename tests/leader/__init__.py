"""The leader's side: group commit, leases, long polls, log time."""
