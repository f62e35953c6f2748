"""The client library: finds the leader, retries safely, coalesces submits."""
