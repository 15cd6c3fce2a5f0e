"""Apps for the audit task-hygiene."""
