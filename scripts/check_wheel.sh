#!/usr/bin/env bash
# Build wheel and sdist, then use the wheel as a stranger would: no extras, no checkout, no cache
# of ours. What passed is left in dist/. Called by `make wheel`.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
# Where setup put uv, if there was none.
PATH=$root/.venv/uv/bin:$PATH
export UV_PYTHON_DOWNLOADS=never
unset VIRTUAL_ENV PYTHONPATH

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

echo "wheel: building"
uv build --quiet --python "$root/.venv/bin/python" --out-dir "$tmp/dist" .
wheel=$(echo "$tmp"/dist/*.whl)

echo "wheel: looking inside ${wheel##*/}"
"$root/.venv/bin/python" scripts/inspect_wheel.py "$wheel"

echo "wheel: installing it with no extras in a clean environment"
uv venv --quiet --no-project --python "$root/.venv/bin/python" "$tmp/venv"
uv export --quiet --frozen --no-default-groups --all-extras --no-emit-project --no-hashes \
    --output-file "$tmp/locked.txt"
uv pip install --quiet --python "$tmp/venv/bin/python" --constraint "$tmp/locked.txt" "$wheel"

cd "$tmp"
python=$tmp/venv/bin/python
"$python" -W error -c 'import stormproof'
"$python" -W error -m stormproof --help >help.txt
"$tmp/venv/bin/stormproof" --help >/dev/null
"$python" -W error - <<'PYTHON'
"""A part whose extra is missing says so in one sentence that names the extra."""

for name, extra in {"Database": "database", "Upstream": "upstream"}.items():
    try:
        exec(f"from stormproof import {name}")
    except ImportError as error:
        assert getattr(error, "code", None) == "SP102", f"{name}: {error!r}"
        assert f"stormproof[{extra}]" in str(error), f"{name}: {error}"
        print(f"wheel: {name} without its extra: {error}")
    else:
        raise SystemExit(f"{name} could be imported without the extra {extra!r}")
PYTHON

rm -rf "$root/dist"
cp -r "$tmp/dist" "$root/dist"
echo "wheel: good; wheel and sdist are in dist/"
