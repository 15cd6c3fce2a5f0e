"""The tests of stormproof; folders mirror the rooms in `src/stormproof`."""
