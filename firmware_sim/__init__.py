"""A simulated ward: BLE and MQTT devices that talk to a real gateway.

It imports nothing of `edge`: it is the other side of the wire, written from the
documents (docs/wire-format.md and the GATT profiles), so that two codecs meet in
tests/vectors.
"""
