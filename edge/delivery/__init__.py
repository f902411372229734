"""What leaves the gateway after a commit; alerts over MQTT so far."""
