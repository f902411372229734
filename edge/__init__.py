"""The IoMT edge gateway: see docs/architecture.md for the rooms and their order."""
