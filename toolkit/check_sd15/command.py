"""Checks the way from weights to a served picture at Stable Diffusion 1.5's real size, on a CPU.

stages, one after another, each in a process of its own
  weights     random weights of the full layout, as the authors' two state dicts and a Stable Diffusion folder
  convert     `toolkit convert` of them
  reference   a picture of the reference pipeline, in PyTorch, straight from the state dicts
  serve       the same picture, and others, through the gateway and a real Triton, UNets one at a time
  compare     what must hold: pictures and latents agree, both models and both inputs matter, memory stays below 20 GiB

Expect about 24 GB of disk, 16 GiB of free memory and about an hour on two cores. --preset tiny goes the same way in
a minute or two, which the tests do. The work directory keeps everything: --from goes on with a stage.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil

from toolkit.check_sd15.case import GIB, PRESETS, ROOT, SUBJECTS, Files
from toolkit.errors import InputError

STAGES = ("weights", "convert", "reference", "serve", "compare")
LOOK = 0.25  # seconds between two looks at a stage's memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--work-dir", type=Path, default=Path.home() / "face-diffuser-work" / "check-sd15",
                        help="default: %(default)s")  # fmt: skip
    parser.add_argument("--preset", choices=PRESETS, default="sd15", help="sizes; default: %(default)s")
    parser.add_argument("--from", choices=STAGES, default="weights", dest="begin", help="begin with this stage")
    parser.add_argument("--stage", choices=STAGES, help="run this stage alone, here; nobody watches its memory")


def run(args: argparse.Namespace) -> int:
    """Raises InputError where memory or, as a stage finds out before it writes anything, the disk is too small."""
    files = Files(args.work_dir.resolve())
    if args.stage:
        return _run_here(args.stage, files, args.preset)
    to_do = STAGES[STAGES.index(args.begin) :]
    free, needed = psutil.virtual_memory().available, PRESETS[args.preset].memory
    if to_do != ("compare",) and free < needed:
        short = f"{needed / GIB:.1f} GiB of memory are needed, {free / GIB:.1f} GiB are free"
        raise InputError(f"{short}: end other programs")
    for stage in to_do[:-1]:
        _run_and_watch(stage, files, args.preset)
    return _run_here("compare", files, args.preset)


def _run_here(stage: str, files: Files, preset: str) -> int:
    # Imported as late as this, for a stage's memory is its own, and a process that only waits needs no PyTorch.
    if stage == "weights":
        from toolkit.check_sd15 import weights

        weights.write(files, PRESETS[preset].manifest)
    elif stage == "convert":
        return subprocess.call(_convert(files), cwd=ROOT)
    elif stage == "reference":
        from toolkit.check_sd15 import reference

        reference.draw(files)
    elif stage == "serve":
        from toolkit.check_sd15 import serve

        serve.draw(files)
    else:
        from toolkit.check_sd15.compare import compare, table

        said = compare(files)
        print(table(said))
        for finding in said:
            if not finding.holds:
                print(f"check-sd15: {finding.what}: {finding.found}, want {finding.want}", file=sys.stderr)
        return 0 if all(finding.holds for finding in said) else 1
    return 0


def _convert(files: Files) -> list[str]:
    given = {"--sdm": files.sdm, "--tdm": files.tdm, "--image-encoder": files.image_encoder, "--out": files.family}
    options = [str(word) for pair in given.items() for word in pair]
    # A few pictures to fit previews to: the autoencoder's encoder takes long at this size.
    options += ["--pictures", str(SUBJECTS[0].parent), "--license", "random numbers"]
    return [sys.executable, "-m", "toolkit", "convert", str(files.stable_diffusion), *options]


def _run_and_watch(stage: str, files: Files, preset: str) -> None:
    """Notes how long a stage took and what it and its children held at most; shared pages count for each of them."""
    if stage == "convert":
        (files.family / "pipeline.json").unlink(missing_ok=True)  # of an earlier run
        command = _convert(files)
    else:
        own = ["--stage", stage, "--preset", preset, "--work-dir", str(files.work)]
        command = [sys.executable, "-m", "toolkit", "check-sd15", *own]
    print(f"== {stage}", flush=True)
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        while True:
            peak = max(peak, _memory(process.pid))
            try:
                status = process.wait(LOOK)
                break
            except subprocess.TimeoutExpired:
                continue
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status != 0:
        raise InputError(f"the stage {stage} failed with {status}; --from {stage} tries it again")
    measured = json.loads(files.measured.read_text(encoding="utf-8")) if files.measured.exists() else {}
    measured[stage] = {"seconds": time.monotonic() - began, "peak": peak}
    files.measured.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(f"== {stage}: {measured[stage]['seconds'] / 60:.1f} min, at most {peak / GIB:.2f} GiB", flush=True)


def _memory(pid: int) -> int:
    """Bytes that a process and its children hold; 0 if it is gone."""
    held = 0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            held += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return held
