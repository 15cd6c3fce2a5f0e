"""The agent inside the app: standard library only, loaded without stormproof being imported."""
