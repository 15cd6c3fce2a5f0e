"""Advise: what `--explain` says of an app, with the settings that would be in force."""

from typing import Literal

from ._explain import Plan, as_json, as_text, explain
from ._load import load_app, named_target
from ._options import ServeOptions, Supervision
from ._run import KEEP_ALIVE, lifecycle_of


def explained(
    target: str | None,
    options: ServeOptions,
    supervision: Supervision,
    *,
    form: Literal["text", "json"] = "text",
) -> str:
    """Return what each platform must be told to run `target` with these settings.

    Imports the application, because `install()` may name the numbers; starts nothing.

    Raises:
        AppNotFound: It cannot be imported.
        InvalidSetting: A number is out of range.
    """
    target = named_target(target)
    lifecycle = lifecycle_of(load_app(target), options)
    plan = Plan(
        target=target,
        host=options.host,
        port=options.port,
        workers=supervision.workers,
        grace=lifecycle.grace,
        prestop=lifecycle.prestop,
        keep_alive=KEEP_ALIVE,
        certfile=options.ssl_certfile,
        keyfile=options.ssl_keyfile,
    )
    advice = explain(plan)
    return as_json(plan, advice) if form == "json" else as_text(plan, advice)
