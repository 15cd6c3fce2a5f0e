"""FastAPI services that lose nothing under load, faults and deploys."""
