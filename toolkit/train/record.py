"""The log of the stages that made a family's weights, and what it says of time and memory.

Lines of `stages.jsonl`: stage, steps, batch (pictures a step), workers, minutes (over all runs of
the stage, its latents included), peak_memory_mib (resident, summed over the workers of the last
run; null in a family written before the stage's end), peak_device_memory_mib (of one accelerator,
where there is one), precision, loss (mean of the last 200 steps), measured (on held-out data), from
(the weights that the work directory began with; null = random).
"""

import json
import re
import resource
import sys
from pathlib import Path

import torch

LOG = "stages.jsonl"


def append(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")


def write(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(records: list[dict]) -> str:
    """Markdown: a line a stage, and their sum."""
    lines = ["| stage | steps | pictures a step | minutes | memory (MiB) | on held-out data |", "|---|--:|--:|--:|--:|---|"]
    for r in records:
        measured = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in (r.get("measured") or {}).items())
        minutes, peak = round(r["minutes"]), r.get("peak_memory_mib") or ""
        lines.append(f"| `{r['stage']}` | {r['steps']:,} | {r['batch']} | {minutes} | {peak} | {measured} |")
    lines.append(f"| all | | | {round(sum(r['minutes'] for r in records))} | | |")
    return "\n".join(lines)


def summary(records: list[dict]) -> str:
    """One line: hours and the largest memory of all records."""
    hours = sum(record.get("minutes", 0) for record in records) / 60
    peak = max((record.get("peak_memory_mib") or 0 for record in records), default=0)
    return f"{len(records)} stages, {hours:.2f} hours in all, at most {peak} MiB of memory"


def peak_memory_mib() -> float:
    """The most that this process has had resident since it started its program."""
    status = Path("/proc/self/status")
    if status.exists():  # the other way counts what the process had before exec
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def peak_device_memory_mib(device: torch.device) -> int | None:
    """Of this process's accelerator; None on a CPU."""
    return round(torch.cuda.max_memory_allocated(device) / 2**20) if device.type == "cuda" else None
