"""A node's parts, put together: only here the real clock, ports, disk and randomness are chosen."""
