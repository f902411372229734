"""The bounds of the MQTT listener; [mqtt.limits] of the configuration changes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of the listener."""

    connections_max: int = 512  # then the oldest that has done nothing good makes way
    connect_timeout_s: float = 10.0  # from accept (and TLS handshake) to CONNECT
    idle_max_s: float = 3_600.0  # without a packet, of a client without keep-alive
    connect_size_max: int = 16_384  # bytes, so that strangers cannot fill the memory
    packet_size_max: int = 262_144  # bytes, announced in version 5; more is 0x95
    receive_max: int = 1_024  # QoS 1 in flight, announced and enforced in version 5
    pending_max: int = 2_048  # messages before the commit; then reading stops
    untried_max: int = 64  # the same, until one of a connection's messages was good
    refusals_per_s: float = 20.0  # of one principal; it is read no faster than that
    refusals_burst: int = 200  # but for so many at once
    violations_per_s: float = 10.0  # of the protocol, or a wrong password, by address
    violations_burst: int = 100  # then its new connections wait, so long at the most:
    violations_wait_s: float = 2.0
    subscriptions_max: int = 32  # per connection
    send_window_max: int = 256  # our QoS 1 without PUBACK, per subscriber
    unsent_max: int = 1_024  # messages behind that window before it counts as dead
    write_buffer_size_max: int = 1_048_576  # bytes a subscriber may leave unread
    sessions_max: int = 1_024  # without a connection
    sessions_per_user_max: int = 8  # of those, of one user
    session_expiry_max_s: int = 604_800  # a week; 3.1.1 cannot ask for less
    kept_for_absent_max: int = 32  # receipts for a device that is away
    live_for_absent_max: int = 256  # readings for a viewer who is away
    linger_s: float = 2.0  # from our goodbye to the abort
    close_timeout_s: float = 5.0  # for commits in flight when the listener closes
