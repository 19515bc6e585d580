#!/usr/bin/env bash
# Resolve every requirements/*.in to the newest versions, with hashes.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
for purpose in bootstrap runtime dev bench; do
  echo "resolving $purpose" >&2
  ../.venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
    "$purpose.in" -o "$purpose.txt"
done
