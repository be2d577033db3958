#!/usr/bin/env bash
# Usage: scripts/need.sh go|python|make|gcc|node|chromium ...
# Says in one message everything that this machine lacks of the tools named, and fails if it lacks any.
set -u
cd "$(dirname "$0")/.." || exit 1
missing=()

# at_least NAME WANTED FOUND HINT: compares dotted versions.
at_least() {
  if [ -z "$3" ]; then missing+=("$1 $2 or later: not found. $4")
  elif [ "$(printf '%s\n%s\n' "$2" "$3" | sort -V | head -n 1)" != "$2" ]; then missing+=("$1 $2 or later: this is $3. $4"); fi
}

for tool in "$@"; do
  case $tool in
    go) at_least Go "$(sed -n 's/^go //p' go.mod)" "$(go env GOVERSION 2>/dev/null | sed 's/^go//; s/ .*//')" "See https://go.dev/dl/" ;;
    make) at_least "GNU make" 4.0 "${MAKE_VERSION:-$(make --version 2>/dev/null | sed -n 's/^GNU Make //p')}" "" ;;
    node)
      at_least Node.js 20.0 "$(node --version 2>/dev/null | sed 's/^v//')" "OpenAI's JavaScript SDK needs it, with npm. See https://nodejs.org/"
      command -v npm >/dev/null || missing+=("npm: not found. It comes with Node.js.") ;;
    gcc) "${CC:-gcc}" --version >/dev/null 2>&1 || missing+=("a C compiler (gcc): not found. The race detector of Go needs it.") ;;
    chromium)
      command -v "${CHROMIUM:-chromium}" chromium-browser google-chrome >/dev/null ||
        missing+=("Chromium: not found. The tests of what web pages may do need it. Debian: apt-get install chromium; or set CHROMIUM to its path.") ;;
    python)
      scripts/python.sh >/dev/null || missing+=("CPython 3.${MINOR:-9} to 3.13 with venv: $(python3 --version 2>/dev/null || echo 'no python3') was found. Install one (Debian: python3 and python3-venv) or set PYTHON to its path.") ;;
    *) echo "need.sh: $tool is not known" >&2; exit 2 ;;
  esac
done
if [ ${#missing[@]} -gt 0 ]; then
  { echo "This machine lacks:"; printf '  - %s\n' "${missing[@]}"; } >&2
  exit 1
fi
