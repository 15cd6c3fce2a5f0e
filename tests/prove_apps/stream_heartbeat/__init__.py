"""Apps for the audit stream-heartbeat."""
