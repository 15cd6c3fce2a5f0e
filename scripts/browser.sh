#!/bin/sh
# See that there is a browser for the tests that open a report in one; on Debian, as root, install
# it. Without one these tests fail and say so; the others need none. Called by `make test`.
set -u

for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "browser: installing Debian's chromium" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
    echo "browser: apt-get could not install chromium; the tests that need it will fail" >&2
else
    echo "browser: no Chromium here and no way to install it; the tests that need it will fail" >&2
fi
exit 0
