#!/bin/sh
# Makes dist/api.wasm of app.py. The compiler goes into .venv at the first time.
set -eu
if ! test -x .venv/bin/componentize-py; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet -r requirements.txt
fi
mkdir -p dist
.venv/bin/componentize-py --wit-path wit --world function componentize app -o dist/api.wasm
