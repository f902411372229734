"""What a device's bytes mean: envelopes, SenML and GATT values. Pure functions."""
