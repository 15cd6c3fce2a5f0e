"""The attacks: one file each; each drives a server of its own and leaves a record."""
