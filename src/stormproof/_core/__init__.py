"""The shared nouns every room may use: clock, deadline, lifecycle, events, ASGI helpers."""
