"""What a worker tells of itself: logs, metrics, spans, its status."""
