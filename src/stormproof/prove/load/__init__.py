"""Load: an open loop, closed loops, rude clients and a canary, and the ledger of all they did."""
