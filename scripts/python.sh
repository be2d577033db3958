#!/usr/bin/env bash
# Prints the path of a CPython from 3.${MINOR:-9} to 3.13 that can make virtual environments: $PYTHON, python3, or a python3.x beside it.
set -u
for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
  path=$(command -v "$name") || continue
  "$path" -c 'import sys, venv, ensurepip; sys.exit(not ((3, int(sys.argv[1])) <= sys.version_info[:2] <= (3, 13) and sys.implementation.name == "cpython"))' "${MINOR:-9}" \
    2>/dev/null && { "$path" -c 'import sys; print(sys.executable)'; exit 0; }
done
exit 1
