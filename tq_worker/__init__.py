"""The worker: claims tasks and runs handlers under their leases."""
