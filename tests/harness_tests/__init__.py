"""What the harness promises to the tests that lean on it."""
