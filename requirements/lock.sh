#!/usr/bin/env bash
# Resolves the extras of pyproject.toml into the lock files beside this script. Needs uv: pip install uv.
set -euo pipefail
cd "$(dirname "$0")/.."
lock() {
  local out=$1; shift
  uv pip compile --quiet pyproject.toml "${@/#/--extra=}" --python-version 3.11 --universal --no-header --no-annotate \
    --no-emit-package torch --no-emit-package slipstream --output-file "requirements/$out"
}
lock serve.txt serve
lock dev.txt serve bench dev
lock quantize.txt quantize
