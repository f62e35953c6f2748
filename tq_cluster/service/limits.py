"""How large messages may be and how connections are kept, the same on both of their sides."""

from __future__ import annotations

from typing import Any

from tq_cluster.core.model.limits import DEFAULT_LIMITS

MESSAGE_BYTES_MAX = DEFAULT_LIMITS.message_bytes_max
ANSWER_BYTES_MAX = DEFAULT_LIMITS.answer_bytes_max
LOOKAHEAD_BYTES = 64 << 10
CONNECTION_AGE_MS = 300_000
"""After this a client's connection is closed gently, so that load moves after a failover."""
CONNECTION_AGE_GRACE_MS = 6 * 3_600_000
"""Above the longest long poll, and above the longest backup: new calls go elsewhere meanwhile."""
KEEPALIVE_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000
PING_INTERVAL_MIN_MS = 5_000
"""What a client may ping at most; oftener is answered with GOAWAY (too_many_pings)."""

HANDSHAKE_MS = 5_000
"""How long a connection may take to speak HTTP/2."""
NODES_IDLE_MS = 60_000
"""How long a connection between nodes may carry no call: they see to it that it carries some.

Callers' have none: gRPC in a caller's process would write a line to standard error each time one is
closed for it. They end at their age, of which nobody hears.
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
    # What a caller may send before its request is read, a connection as a whole and a call of it.
    # gRPC would raise that by itself to megabytes a call, for a distant caller.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    # Two nodes on one port must be an error and not share it.
    ("grpc.so_reuseport", 0),
    ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
    ("grpc.max_connection_age_grace_ms", CONNECTION_AGE_GRACE_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
]

SERVER_OPTIONS_FOR_NODES: _Options = [
    # Nodes keep the connections that they have: at a port that is full they might get no other.
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
    # A node that was restarted is found again at once.
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
    """What keeps a server's connections from taking the descriptors of everything else.

    gRPC has no cap by address: one more than ``most`` is closed before its handshake, whoever it
    is. So a place is not to be had for nothing, nor for ever: what says nothing loses it soon.
    """
    return [
        ("grpc.max_allowed_incoming_connections", most),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ]
