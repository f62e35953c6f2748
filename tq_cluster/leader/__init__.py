"""What only a leader does: group commit, due times, leases, long polls."""
