"""For all tests: a busy machine is not a finding, so hypothesis has no deadline."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "iomt", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("iomt")
