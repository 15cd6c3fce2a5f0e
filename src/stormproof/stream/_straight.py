"""The straight way to the server: past those who hand the chunks of a body on as they are."""

from types import FunctionType, MethodType
from typing import Any

from stormproof._core.asgi import BodyLayer, Send

_STARLETTE = ("starlette._exception_handler", "starlette.middleware.errors")
_CONSTANTS = {None, "type", "http.response.start", True}


def straight(send: Send) -> Send:
    """Return the `send` that the body of a response that has begun reaches in the end.

    For all messages but the last. Past our own layers, and past Starlette's around exceptions
    (1.10), which note that the response has begun: a route has two or three of them, and each
    is a coroutine more for each event and subscriber. At a `send` of anybody else it ends.
    """
    while (behind := _behind(send)) is not None:
        send = behind
    return send


def _behind(send: Any) -> Send | None:
    if isinstance(send, MethodType):
        layer = send.__self__
        return layer.body_send if isinstance(layer, BodyLayer) else None
    if isinstance(send, FunctionType) and _only_notes_the_start(send):
        cells = dict(zip(send.__code__.co_freevars, send.__closure__ or (), strict=True))
        behind: Send = cells["send"].cell_contents
        return behind
    return None


def _only_notes_the_start(send: FunctionType) -> bool:
    """Whether it is Starlette's, and can do no more than it did when this was written.

    A function without any name but these, and with these constants alone, sets a flag at the
    start and sends the message.
    """
    code = send.__code__
    return (
        send.__module__ in _STARLETTE
        and code.co_varnames == ("message",)
        and code.co_freevars == ("response_started", "send")
        and not code.co_names
        and _CONSTANTS.issuperset(code.co_consts)
    )
