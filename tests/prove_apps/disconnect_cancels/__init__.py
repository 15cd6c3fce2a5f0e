"""Apps for the audit disconnect-cancels."""
