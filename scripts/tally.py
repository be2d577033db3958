"""Counts the results of test runners: `tally.py FILE...`, each a `go test -json` stream or a JUnit XML file.

Prints `N passed, N failed, N skipped` and fails unless every file is there, some test passed and none failed.
"""

import json
import pathlib
import sys
import xml.etree.ElementTree as ET


def go(text):
    for line in text.splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("Action") in ("pass", "fail", "skip") and "Test" in event:
            yield event["Action"]
        elif event.get("Action") == "fail" and event.get("FailedBuild"):
            yield "fail"  # a package that does not compile runs no test that could fail


def junit(text):
    for case in ET.fromstring(text).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            yield "fail"
        else:
            yield "pass" if case.find("skipped") is None else "skip"


count = {"pass": 0, "fail": 0, "skip": 0}
missing = 0
for name in sys.argv[1:]:
    file = pathlib.Path(name)
    if not file.exists():
        print(f"{name}: its tests did not run", file=sys.stderr)
        missing += 1
        continue
    text = file.read_text()
    for result in (junit if file.suffix == ".xml" else go)(text):
        count[result] += 1
print(f"{count['pass']} passed, {count['fail'] + missing} failed, {count['skip']} skipped")
sys.exit(bool(missing or count["fail"] or not count["pass"]))
