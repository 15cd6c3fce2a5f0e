#!/bin/sh
# Make .venv with everything uv.lock names, from Python 3.11 or newer alone; safe to repeat.
# Called by `make setup`; PYTHON names the interpreter (python3).
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "setup: $1" >&2
    exit 1
}

wanted=${PYTHON:-python3}
other="name another one: make setup PYTHON=/path/to/python3.11"

# The interpreter below any virtual environment: .venv must not be made from itself.
python=$("$wanted" -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)' 2>/dev/null) ||
    fail "'$wanted' does not run; install Python 3.11 or newer (Debian: apt-get install python3-venv), or $other"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "'$wanted' is Python $version and stormproof needs 3.11 or newer; $other"

# uv must use this interpreter and no other, and no environment that happens to be active.
unset VIRTUAL_ENV CONDA_PREFIX
export UV_PROJECT_ENVIRONMENT=.venv UV_PYTHON_DOWNLOADS=never

# Not `command -v`: a version manager's shim may be on PATH without a uv behind it.
if uv --version >/dev/null 2>&1; then
    uv=uv
else
    # In a folder of its own, because `uv sync` removes from site-packages what is not locked.
    uv=.venv/uv/bin/uv
    if ! "$uv" --version >/dev/null 2>&1; then
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "'$wanted' cannot make virtual environments; run: apt-get install python3-venv (Debian keeps that module apart), or install uv, or $other"
        echo "setup: making .venv with Python $version and installing uv into it"
        "$python" -m venv --clear .venv
        .venv/bin/python -m pip install -qq --disable-pip-version-check --target .venv/uv uv
    fi
fi

# An environment whose interpreter is gone or too old is made again; a sound one is kept.
if .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=.venv/bin/python
fi
echo "setup: installing what uv.lock names into .venv"
"$uv" sync --quiet --frozen --all-groups --python "$python"
