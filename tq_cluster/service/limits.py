"""Message sizes and connection settings, the same for servers and channels."""

from __future__ import annotations

from typing import Any

from tq_cluster.core.model.limits import DEFAULT_LIMITS

MESSAGE_BYTES_MAX = DEFAULT_LIMITS.message_bytes_max
ANSWER_BYTES_MAX = DEFAULT_LIMITS.answer_bytes_max
LOOKAHEAD_BYTES = 64 << 10
CONNECTION_AGE_MS = 300_000
"""After this a client's connection is closed gracefully, so that load moves after a failover."""
CONNECTION_AGE_GRACE_MS = 6 * 3_600_000
"""Longer than the longest long poll and the longest backup: new calls use other connections."""
KEEPALIVE_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000
PING_INTERVAL_MIN_MS = 5_000
"""The shortest interval of a client's pings; more are answered with GOAWAY (too_many_pings)."""

HANDSHAKE_MS = 5_000
"""How long a connection may take to speak HTTP/2."""
NODES_IDLE_MS = 60_000
"""How long a connection between nodes may carry no call; nodes make calls to keep theirs.

Callers' connections have no such limit: gRPC in a caller's process would write a line to standard
error each time one is closed for it. They end at their age, without such a line.
"""

_Options = list[tuple[str, Any]]

_COMMON: _Options = [
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

SERVER_OPTIONS: _Options = [
    *_COMMON,
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", ANSWER_BYTES_MAX),
    # What a caller may send before its request is read, per connection and per call. gRPC would
    # raise that by itself to megabytes a call, for a distant caller.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    # Two nodes on one port must be an error and not share it.
    ("grpc.so_reuseport", 0),
    ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
    ("grpc.max_connection_age_grace_ms", CONNECTION_AGE_GRACE_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
]

SERVER_OPTIONS_FOR_NODES: _Options = [
    # Nodes keep their connections: at a port that is full they might get no other.
    option
    for option in SERVER_OPTIONS
    if not option[0].startswith("grpc.max_connection_age")
] + [("grpc.max_connection_idle_ms", NODES_IDLE_MS)]

CHANNEL_OPTIONS: _Options = [
    *_COMMON,
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # What another node may send before its reply is read.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    # Reconnects at once to a node that was restarted.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    # A container may come back with another address; gRPC would look its name up after 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # Each node has connections of its own; sharing between in-process nodes would entangle them.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


def limits_on_connections(most: int) -> _Options:
    """Keep a server's connections from exhausting the process's file descriptors.

    gRPC has no limit by address: a connection beyond ``most`` is closed before its handshake, for
    every caller. So a connection that sends nothing is closed after ``HANDSHAKE_MS``.
    """
    return [
        ("grpc.max_allowed_incoming_connections", most),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ]
