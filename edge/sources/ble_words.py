"""How a radio fails, in words that tell a person what to do."""

from __future__ import annotations

from bleak.exc import BleakError

# How an adapter, a device or the daemon between fails; all of it is retried.
RADIO_ERRORS = (BleakError, OSError, EOFError, TimeoutError)

_UUID_16_PREFIX = "0000"
_UUID_16_SUFFIX = "-0000-1000-8000-00805f9b34fb"  # the Bluetooth Base UUID

# BlueZ's word for EMLINK, the controller's "connection limit exceeded".
ADAPTER_FULL = "le-connection-concurrent-connection-limit"

# What BlueZ, D-Bus and bleak say -> what it means; the first that is found. Each was
# seen here (tests/bluez) or stands in another gateway's list of troubles.
_MEANINGS = (
    ("org.bluez.Error.InProgress", "BlueZ is busy with another scan or connection"),
    ("org.bluez.Error.NotReady", "the adapter is switched off"),
    ("No powered Bluetooth adapters", "no adapter is plugged in and switched on"),
    ("org.bluez.Error.AuthenticationFailed", "pairing failed: wrong or missing code"),
    ("org.bluez.Error.AuthenticationRejected", "the device refuses to be paired"),
    ("org.bluez.Error.AuthenticationCanceled", "pairing was broken off"),
    ("org.bluez.Error.AuthenticationTimeout", "nobody confirmed the pairing in time"),
    ("le-connection-abort-by-local", "BlueZ gave up: too far, busy or a full table"),
    (ADAPTER_FULL, "the adapter holds no more connections"),
    ("org.bluez.Error.ConnectionAttemptFailed", "the device does not answer"),
    # So says BlueZ 5.66 of a device that was reset and knows its bond no longer.
    ("br-connection-canceled", "broken off; always? then revoke it and add it again"),
    ("br-connection-", "BlueZ tried classic Bluetooth: remove the device and scan"),
    ("org.freedesktop.DBus.Error.ServiceUnknown", "bluetoothd is not running"),
    ("org.freedesktop.DBus.Error.NameHasNoOwner", "bluetoothd is not running"),
    ("org.freedesktop.DBus.Error.NoReply", "bluetoothd does not answer"),
    ("org.freedesktop.DBus.Error.UnknownObject", "BlueZ has forgotten the device"),
    ("org.freedesktop.DBus.Error.AccessDenied", "this user may not use Bluetooth"),
    ("system_bus_socket", "D-Bus is not running"),
    ("Insufficient Authentication", "wants to be paired: `iomt device add --ble`"),
    ("Insufficient Encryption", "wants to be paired: `iomt device add --ble`"),
    ("org.bluez.Error.NotPermitted", "wants to be paired: `iomt device add --ble`"),
)


def explain(error: BaseException) -> str:
    """The error with what it means in front, where we know; some have no text."""
    text = str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError):  # dbus-fast does not say which
        text = f"system_bus_socket: {text}"
    for sign, meaning in _MEANINGS:
        if sign.lower() in text.lower():
            return f"{meaning} ({text})"
    return text


def short(uuid: str) -> str:
    """The 16-bit form of a full UUID in bleak's spelling, or the UUID itself."""
    if uuid.startswith(_UUID_16_PREFIX) and uuid.endswith(_UUID_16_SUFFIX):
        return uuid[4:8]
    return uuid


def says_full(error: BaseException) -> bool:
    """Whether the adapter has refused a connection because it has too many."""
    return ADAPTER_FULL in str(error)
