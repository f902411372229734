"""What a device says of itself: the Device Information Service 1.1.

System ID 0x2A23
    manufacturer's identifier   5   little-endian
    OUI                         3   little-endian
PnP ID 0x2A50
    vendor ID source 1 (1 Bluetooth SIG, 2 USB), vendor ID 2, product ID 2, version 2
Text in UTF-8
    2A24 model, 2A25 serial number, 2A26 firmware, 2A27 hardware, 2A28 software
    revision, 2A29 manufacturer

The EUI-64 of a System ID is its OUI and then the manufacturer's identifier, highest
byte first: the 8 bytes turned round. Where the identifier is made from the device's
Bluetooth address the two bytes behind the OUI are ff fe.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.devices.profiles.fields import Fields

SYSTEM_ID_UUID = "2a23"
PNP_ID_UUID = "2a50"
TEXTS = {
    "2a29": "manufacturer",
    "2a24": "model",
    "2a25": "serial number",
    "2a26": "firmware",
    "2a27": "hardware",
    "2a28": "software",
}
TEXT_SIZE_MAX = 512  # what an attribute can hold
_EUI_SIZE = 8


def eui_64(system_id: bytes) -> bytes:
    """The 8 bytes of the EUI-64, highest first; RefusedError MALFORMED by field."""
    fields = Fields("system ID", system_id)
    manufacturer = fields.octets("manufacturer's identifier", 5)
    oui = fields.octets("OUI", 3)
    fields.end()
    return oui[::-1] + manufacturer[::-1]


def system_id(eui: bytes) -> bytes:
    """The System ID of an EUI-64 of 8 bytes."""
    if len(eui) != _EUI_SIZE:
        raise ValueError(f"an EUI-64 has {_EUI_SIZE} bytes, this has {len(eui)}")
    return eui[::-1]


@dataclass(frozen=True, slots=True)
class PnpId:
    """Who registered the product: `source` 1 is the Bluetooth SIG, 2 the USB forum."""

    source: int
    vendor: int
    product: int
    version: int

    @classmethod
    def from_bytes(cls, value: bytes) -> PnpId:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("PnP ID", value)
        source = fields.unsigned("vendor ID source", 1)
        numbers = [
            fields.unsigned(name, 2)
            for name in ("vendor ID", "product ID", "product version")
        ]
        fields.end()
        return cls(source, *numbers)

    def __bytes__(self) -> bytes:
        rest = (self.vendor, self.product, self.version)
        return bytes((self.source,)) + b"".join(n.to_bytes(2, "little") for n in rest)


def text(value: bytes) -> str:
    """A text as a person may see it.

    Devices pad with zero bytes and do not all write UTF-8; what cannot be shown on a
    terminal becomes U+FFFD.
    """
    shown = value[:TEXT_SIZE_MAX].rstrip(b"\0").decode(errors="replace").strip()
    return "".join(one if one.isprintable() else "�" for one in shown)
