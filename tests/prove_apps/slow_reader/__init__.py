"""Apps for the audit slow-reader."""
