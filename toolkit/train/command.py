"""Trains the mini family: one stage, or all in order, in a work directory outside the checkout.

Stages resume from their last checkpoint. `export-checkpoint` writes the family that the present
checkpoints make, at any time, into --out.
"""

import argparse
import socket
from datetime import timedelta
from pathlib import Path

import torch

from toolkit.data.store import Dataset, build
from toolkit.models import MINI, Preset, save
from toolkit.train.checkpoints import STAGES, compose
from toolkit.train.loop import Options, Stage, run_stage
from toolkit.train.stages import stage_class

# data set -> samples; each is drawn once, when a stage first needs it
COUNTS = {"scenes-train": 14000, "scenes-validation": 512, "subjects-train": 18000, "subjects-validation": 512}
NEEDS = {
    "vae": ("scenes-train", "scenes-validation"),
    "attributes": ("subjects-train", "subjects-validation"),
    "tdm": ("scenes-train", "scenes-validation"),
    "sdm": ("subjects-train", "subjects-validation"),
    "decoder": ("scenes-train", "scenes-validation"),
}
# What `all` gives each stage where nothing else is said; in all some two hours on two cores.
MINUTES = {"vae": 40.0, "attributes": 5.0, "tdm": 30.0, "sdm": 30.0, "decoder": 15.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", choices=[*STAGES, "all", "export-checkpoint"])
    parser.add_argument("--work-dir", type=Path, required=True, help="data, checkpoints, samples and logs")
    parser.add_argument("--out", type=Path, help="folder of export-checkpoint; default WORK_DIR/family")
    parser.add_argument("--minutes", type=float, help="time limit of the stage over all its runs")
    parser.add_argument("--steps", type=int, help="steps instead of the stage's own number")
    parser.add_argument("--batch", type=int, help="pictures a step, over all workers")
    parser.add_argument("--workers", type=int, default=2, help="processes that share a batch")
    parser.add_argument("--prepare", action="store_true", help="only draw and encode the stage's data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads a worker")


def open_datasets(work_dir: Path, stage: str, counts: dict[str, int] | None = None) -> dict[str, Dataset]:
    sizes = {**COUNTS, **(counts or {})}
    sets = {}
    for name in NEEDS[stage]:
        recipe, split = name.split("-")
        sets[name] = build(work_dir / "data" / name, recipe, split, sizes[name])
    return sets


def prepare(stage: str, options: Options, preset: Preset = MINI, counts: dict[str, int] | None = None) -> Stage:
    """The stage on the family that the earlier stages' checkpoints make, its data drawn and encoded."""
    datasets = open_datasets(options.work_dir, stage, counts)
    family = compose(options.work_dir, preset, options.seed, until=stage)
    torch.manual_seed(options.seed)
    return stage_class(stage)(family, datasets, options.work_dir)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    if args.stage != "export-checkpoint":
        for stage in STAGES if args.stage == "all" else [args.stage]:
            minutes = args.minutes if args.stage != "all" else MINUTES[stage]
            prepare(stage, Options(args.work_dir, args.seed))  # data once, before the workers start
            if args.prepare:
                continue
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            torch.multiprocessing.spawn(_work, (args, stage, minutes, port), nprocs=args.workers)
    save(compose(args.work_dir, seed=args.seed), args.out or args.work_dir / "family")


def _work(rank: int, args: argparse.Namespace, stage: str, minutes: float | None, port: int) -> None:
    torch.set_num_threads(args.threads)
    if args.workers > 1:
        torch.distributed.init_process_group(
            "gloo", f"tcp://127.0.0.1:{port}", world_size=args.workers, rank=rank, timeout=timedelta(minutes=10)
        )
    options = Options(args.work_dir, args.seed, args.steps, minutes, args.batch)
    run_stage(prepare(stage, options), options)
    if args.workers > 1:
        torch.distributed.destroy_process_group()
