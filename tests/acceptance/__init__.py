"""What a user is promised, tried on real brokers."""
