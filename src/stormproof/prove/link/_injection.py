"""The injection: a folder whose `sitecustomize` loads the agent, and the app's own after it."""

from importlib.util import find_spec
from pathlib import Path

SOCKET = "_STORMPROOF_AGENT"
"""The environment variable the agent looks for; its value is the path of the socket."""

_TEXT = '''"""Loads the agent of `stormproof prove`, and then the sitecustomize of the app's own."""

import sys

_HERE = {here!r}


def _load_agent():
    from importlib.util import module_from_spec, spec_from_file_location

    folder = {agent!r}
    # A name of its own: importing `stormproof` here would bring FastAPI into every process.
    spec = spec_from_file_location(
        "_stormproof_agent", folder + "/__init__.py", submodule_search_locations=[folder]
    )
    module = sys.modules["_stormproof_agent"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.start()


def _load_next():
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    sys.path[:] = [path for path in sys.path if path != _HERE]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


try:
    _load_agent()
except Exception as error:
    sys.stderr.write("stormproof prove: no agent in this process: %r\\n" % (error,))
_load_next()
'''


def write_injection(folder: Path) -> None:
    """Write the `sitecustomize.py` into a folder that will be first on PYTHONPATH."""
    spec = find_spec("stormproof.prove.agent")
    assert spec is not None
    assert spec.origin is not None
    text = _TEXT.format(here=str(folder), agent=str(Path(spec.origin).parent))
    (folder / "sitecustomize.py").write_text(text)
