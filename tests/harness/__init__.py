"""The harness: real processes and sockets, a real PostgreSQL and Valkey, for every room."""

from .client import Answer as Answer
from .client import Connection as Connection
from .client import encode_request as encode_request
from .client import request as request
from .eventually import until as until
from .peer import scripted_server as scripted_server
from .postgres import fresh_database as fresh_database
from .postgres import running_postgres as running_postgres
from .process import ServerEnded as ServerEnded
from .process import ServerProcess as ServerProcess
from .process import free_port as free_port
from .process import serve_app as serve_app
from .process import uvicorn_app as uvicorn_app
from .redis import RedisServer as RedisServer
from .redis import running_redis as running_redis
from .stream import Event as Event
from .stream import Stream as Stream
from .stream import StreamEnded as StreamEnded
from .wire import Ended as Ended
from .wire import MalformedAnswer as MalformedAnswer

__all__ = (
    "Answer",
    "Connection",
    "Ended",
    "Event",
    "MalformedAnswer",
    "RedisServer",
    "ServerEnded",
    "ServerProcess",
    "Stream",
    "StreamEnded",
    "encode_request",
    "free_port",
    "fresh_database",
    "request",
    "running_postgres",
    "running_redis",
    "scripted_server",
    "serve_app",
    "until",
    "uvicorn_app",
)
