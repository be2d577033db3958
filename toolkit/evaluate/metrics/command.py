"""Trains the mini metrics' networks and states how good they are.

A face detector, a face embedder, and an image and a text tower, from nothing, on people of the
split "metric" only. Everything is drawn and trained under --work-dir and goes on from there after
a cut; the weights (FP16) are written to --out, what was measured on held-out people beside them as
JSON. One core needs about half an hour, a third of it to draw pictures.
"""

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from toolkit.data.captions import vocabulary
from toolkit.data.store import Dataset, SetSpec, build, stamp
from toolkit.evaluate.metrics import quality
from toolkit.evaluate.metrics.faces import FaceSpec, build_faces
from toolkit.evaluate.metrics.mini import WEIGHTS, MiniMetrics, Words
from toolkit.evaluate.metrics.training import (
    MarginClasses,
    Towers,
    detector_loss,
    embedder_loss,
    towers_loss,
    train,
)


@dataclass(frozen=True)
class Course:
    """Steps of one network, faces or pictures a step, and the highest learning rate."""

    steps: int
    batch: int
    learning_rate: float


@dataclass(frozen=True)
class Plan:
    """What is drawn and trained; the defaults made the committed weights."""

    detector: Course = Course(700, 48, 2e-3)
    embedder: Course = Course(2000, 96, 2e-3)
    towers: Course = Course(1000, 128, 1e-3)
    faces: FaceSpec = field(default_factory=FaceSpec)
    pictures: int = 10000  # of the towers
    held_out: int = 1000  # pictures to measure on
    validation: int = 400  # pictures to choose the verification threshold on
    seed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    plan = Plan()
    parser.add_argument("--work-dir", type=Path, required=True, help="data sets and checkpoints, outside the checkout")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="weights to write; scores go to the same name in .json")
    parser.add_argument("--detector-steps", type=int, default=plan.detector.steps)
    parser.add_argument("--embedder-steps", type=int, default=plan.embedder.steps)
    parser.add_argument("--towers-steps", type=int, default=plan.towers.steps)
    parser.add_argument("--seed", type=int, default=plan.seed)
    parser.add_argument("--processes", type=int, default=1, help="processes that draw pictures")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    plan = Plan(
        detector=Course(args.detector_steps, Plan.detector.batch, Plan.detector.learning_rate),
        embedder=Course(args.embedder_steps, Plan.embedder.batch, Plan.embedder.learning_rate),
        towers=Course(args.towers_steps, Plan.towers.batch, Plan.towers.learning_rate),
        seed=args.seed,
    )
    report = make(plan, args.work_dir, args.out, args.processes)
    print(quality.table(report))
    print(f"written: {args.out} ({args.out.stat().st_size / 2**20:.1f} MiB) and {args.out.with_suffix('.json').name}")


def make(plan: Plan, work_dir: Path, out: Path, processes: int = 1) -> dict:
    """Trains what is not trained yet, writes `out` and its JSON, returns what the JSON holds."""
    faces = build_faces(work_dir / "data" / "metrics" / "faces", plan.faces, processes)

    def pictures(split: str, count: int) -> Dataset:
        return build(work_dir / "data" / "metrics" / f"scenes-{split}", SetSpec("scenes", split, count), processes)

    scenes = pictures("metric", plan.pictures)
    torch.manual_seed(plan.seed)
    metrics = MiniMetrics.new(words_of_captions(scenes))
    detector, embedder = metrics.detector, metrics.embedder
    classes = MarginClasses(plan.faces.identities)
    towers = Towers(metrics.image_tower, metrics.text_tower)
    courses = {
        "detector": (plan.detector, detector, lambda rng: detector_loss(detector, faces, plan.detector.batch, rng)),
        "embedder": (
            plan.embedder,
            nn.ModuleList([embedder, classes]),
            lambda rng: embedder_loss(embedder, classes, faces, plan.embedder.batch, rng),
        ),
        "towers": (
            plan.towers,
            towers,
            lambda rng: towers_loss(towers, metrics.words, scenes, plan.towers.batch, rng),
        ),
    }
    learnt_from = {"detector": faces.stamp, "embedder": faces.stamp, "towers": stamp(SetSpec("scenes", "metric", plan.pictures))}
    minutes = {}
    for name, (course, networks, loss) in courses.items():
        data = f"{course.batch} a step of {learnt_from[name]}"
        spent = train(name, networks, loss, course.steps, course.learning_rate, work_dir, plan.seed, data)
        minutes[name] = round(spent, 1)
    metrics.save(out)
    # Measured as they are read again: in FP16.
    report = quality.measure(MiniMetrics.load(out), pictures("held_out", plan.held_out), pictures("validation", plan.validation))
    report["training"] = asdict(plan) | {"minutes": minutes}
    out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def words_of_captions(scenes: Dataset) -> Words:
    """Every token that captions can hold: those drawn, and the whole vocabulary of phrases."""
    phrases = [phrase for group in vocabulary().values() for phrase in group]
    return Words.of(phrases + [sample["caption"] for sample in scenes.samples])
