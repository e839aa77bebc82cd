#!/usr/bin/env bash
# Renew the lock files: requirements/NAME.txt pins what requirements/NAME.in asks for, down to the last dependency, each with
# the hashes of all its files, and each the newest that there is. "make lock" calls it; scripts/locks.py checks them.
set -euo pipefail
cd "$(dirname "$0")/.."

for file in requirements/*.in; do
    oldest=3.9
    [ "$file" != requirements/clients.in ] || oldest=3.10 # most of them have left 3.9 behind
    # One version of each package for all interpreters (fewest), where there is one, so that they are tested with the same.
    "${VENV:-.venv}/bin/uv" pip compile --quiet --universal --python-version "$oldest" --fork-strategy fewest --generate-hashes \
        --upgrade --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
        --output-file "${file%.in}.txt" "$file"
done
exec "${VENV:-.venv}/bin/python" scripts/locks.py
