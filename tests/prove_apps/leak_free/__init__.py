"""Apps for the audit leak-free."""
