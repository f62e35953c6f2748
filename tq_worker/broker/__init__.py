"""The worker and its brokers: claims, leases, heartbeats, reports, liveness."""
