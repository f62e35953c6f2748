"""The promises to users, tested on real brokers."""
