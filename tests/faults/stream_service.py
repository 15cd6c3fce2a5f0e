"""The app of the stream storm: a hub over the bus that the environment names."""

import os

from fastapi import FastAPI
from fastapi.responses import Response

import stormproof

from .stream_storm import TOPICS, bus_of

hub = stormproof.Hub(bus_of(os.environ["BUS_URL"]), replay=500, policy="close")
app = FastAPI()
stormproof.install(app, hub, grace=5.0, prestop=0.2)


@app.get("/events")
async def events() -> Response:
    return hub.response(TOPICS)
