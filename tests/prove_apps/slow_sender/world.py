"""The sound twin needs a server that limits the reading of a head."""

OPTIONS = {"sound": {"server": "serve"}}
