"""Apps for the audit loop-blocking."""
