#!/usr/bin/env bash
# Usage: scripts/phases.sh TARGET...
# Makes the targets one after another, goes on after a failure, says how many seconds each took, and fails if one did.
set -u
report="" status=0
for target in "$@"; do
  start=$SECONDS
  if "${MAKE:-make}" --no-print-directory "$target"; then result=ok; else result=FAILED status=1; fi
  report+=$(printf '%6d s  %-14s %s' $((SECONDS - start)) "$target" "$result")$'\n'
  # Nothing can pass without these.
  [ $status = 1 ] && case $target in build | venv) break ;; esac
done
printf '\n%s' "$report"
exit $status
