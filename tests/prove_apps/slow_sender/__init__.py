"""Apps for the audit slow-sender."""
