"""Find the application that `module:app` names, with one sentence for each way to fail."""

import importlib
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from stormproof.errors import AppNotFound, StormproofError

_USUAL_NAMES = ("app", "api")


def load_app(target: str | None, *, directory: Path | None = None) -> Any:
    """Import and return the application that `target` names.

    Args:
        target: `module:attribute`, or `module` with an attribute `app`, `api` or one FastAPI
            app; None: the `entrypoint` of `[tool.fastapi]` in `pyproject.toml`.
        directory: What is put in front of `sys.path`; default the working directory.

    Raises:
        AppNotFound: Nothing is named, the module does not import, or it holds no such app.
    """
    directory = directory or Path.cwd()
    target = named_target(target, directory=directory)
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    module_name, _, attribute = target.partition(":")
    if not module_name or any(not part.isidentifier() for part in module_name.split(".")):
        raise AppNotFound(f"{target!r} is not of the form module:app, for example main:app")
    module = _import(module_name)
    app = _attribute(module, attribute) if attribute else _only_app(module)
    if not callable(app):
        raise AppNotFound(f"{target!r} is a {type(app).__name__}, not an ASGI application")
    return app


def named_target(target: str | None, *, directory: Path | None = None) -> str:
    """Return `target`, or the `entrypoint` of `[tool.fastapi]` in `pyproject.toml`.

    Raises:
        AppNotFound: Nothing is named.
    """
    return target or _entrypoint(directory or Path.cwd())


def _entrypoint(directory: Path) -> str:
    path = directory / "pyproject.toml"
    try:
        table = tomllib.loads(path.read_text()) if path.is_file() else {}
    except tomllib.TOMLDecodeError as exc:
        raise AppNotFound(f"{path} is not valid TOML: {exc}") from exc
    entrypoint = table.get("tool", {}).get("fastapi", {}).get("entrypoint")
    if not isinstance(entrypoint, str):
        raise AppNotFound(
            "no application named: give module:app, or set entrypoint in [tool.fastapi] of "
            "pyproject.toml"
        )
    return entrypoint


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise AppNotFound(f"there is no module {name!r} here ({os.getcwd()})") from exc
        raise AppNotFound(f"module {name!r} needs {exc.name!r}, which is not installed") from exc
    except StormproofError:
        raise  # it says by itself what is wrong, for example with DATABASE_URL
    except SystemExit as exc:
        raise AppNotFound(f"module {name!r} left with exit code {exc.code} on import") from exc
    except Exception as exc:
        place = _last_place(exc)
        reason = f"{type(exc).__name__}: {exc}"
        raise AppNotFound(f"module {name!r} fails on import: {reason} ({place})") from exc


def _last_place(exc: BaseException) -> str:
    """Return file:line of the innermost frame, where the module's author has to look."""
    if isinstance(exc, SyntaxError):
        return f"{exc.filename}:{exc.lineno}"
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown place"
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _attribute(module: Any, path: str) -> Any:
    value = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as exc:
            raise AppNotFound(f"module {module.__name__!r} has no attribute {path!r}") from exc
    return value


def _only_app(module: Any) -> Any:
    for name in _USUAL_NAMES:
        if isinstance(getattr(module, name, None), FastAPI):
            return getattr(module, name)
    found = [name for name, value in vars(module).items() if isinstance(value, FastAPI)]
    if len(found) == 1:
        return getattr(module, found[0])
    count = "no" if not found else f"{len(found)}"
    raise AppNotFound(f"module {module.__name__!r} has {count} FastAPI apps; name it: module:app")
