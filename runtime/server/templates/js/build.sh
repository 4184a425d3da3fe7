#!/bin/sh
# Makes dist/api.wasm of src/api.js. The compiler goes into node_modules the first time.
set -eu
if ! test -x node_modules/.bin/componentize-js; then
    if ! command -v npm > /dev/null; then
        echo "the build needs Node.js 20 or newer with npm, and there is no npm in PATH; see https://nodejs.org" >&2
        exit 1
    fi
    npm install --no-audit --no-fund --ignore-scripts
fi
mkdir -p dist
node_modules/.bin/componentize-js src/api.js --wit wit --world-name function --out dist/api.wasm
