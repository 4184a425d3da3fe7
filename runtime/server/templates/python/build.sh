#!/bin/sh
# Makes dist/api.wasm of app.py. The compiler goes into .venv the first time.
set -eu
if ! test -x .venv/bin/componentize-py; then
    if ! command -v python3 > /dev/null; then
        echo "the build needs Python 3.10 or newer, and there is no python3 in PATH; see https://www.python.org" >&2
        exit 1
    fi
    if ! python3 -m venv .venv; then
        echo "the build needs Python's venv (on Debian and Ubuntu: apt install python3-venv)" >&2
        exit 1
    fi
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
fi
mkdir -p dist
.venv/bin/componentize-py --wit-path wit --world function componentize app -o dist/api.wasm
