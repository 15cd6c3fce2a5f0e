"""The target: the app as a real server process, started, sampled and surely ended."""
