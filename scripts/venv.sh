#!/usr/bin/env bash
# Usage: scripts/venv.sh DIR REQUIREMENTS
# Makes the virtual environment DIR anew with exactly what REQUIREMENTS pins by hash, and nothing that it does not. DIR/.ready appears last.
set -eu
dir=$1 requirements=$2
cd "$(dirname "$0")/.."
python=$(scripts/python.sh) || { scripts/need.sh python; exit 1; }
echo "making $dir with $("$python" --version) from $requirements ..." >&2
rm -rf "$dir"
"$python" -m venv "$dir"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --no-deps -r "$requirements"
touch "$dir/.ready"
