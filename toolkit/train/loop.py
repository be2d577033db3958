"""The training loop of every stage: deterministic steps, averaged weights, resumable.

Step n draws everything random from (seed, stage, n), so a run that was cut and resumed reaches
the same weights as one that was not. Only `minutes` breaks that: with a time limit the learning
rate follows whichever of steps and time is further on.
"""

import json
import math
import os
import time
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


class Workers:
    """Processes that share a step's batch: each does its part, gradients are averaged.

    One thread a process and one exchange a step. Threads of one process meet at a barrier in
    every operator, which on cores shared with other work costs ten times the arithmetic.
    """

    def __init__(self) -> None:
        on = torch.distributed.is_initialized()
        self.count = torch.distributed.get_world_size() if on else 1
        self.rank = torch.distributed.get_rank() if on else 0

    def agree(self, value: float) -> float:
        """Worker 0's value, in all."""
        if self.count == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        torch.distributed.broadcast(box, 0)
        return float(box)

    def average(self, parameters: list[nn.Parameter]) -> None:
        """Replaces gradients by their mean over the workers; a missing one counts as zero."""
        if self.count == 1:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in grads])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)


@dataclass(frozen=True)
class Options:
    """Of one run of a stage.

    minutes: wall-clock limit over all resumed runs of the stage, or None.
    checkpoint_seconds: between two checkpoints; sample_seconds: between two sample sheets.
    """

    work_dir: Path
    seed: int = 0
    steps: int | None = None
    minutes: float | None = None
    batch: int | None = None  # over all workers
    checkpoint_seconds: float = 120.0
    sample_seconds: float = 240.0
    bf16: bool = True


@dataclass
class Draw:
    """Randomness of one step: NumPy for choices, torch for tensors."""

    numpy: np.random.Generator
    torch: torch.Generator

    @staticmethod
    def of(seed: int, stage: str, step: int, rank: int = 0) -> "Draw":
        rng = np.random.default_rng([seed, zlib.crc32(stage.encode()), step, rank])
        return Draw(rng, torch.Generator().manual_seed(int(rng.integers(2**62))))

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.torch)


class Stage(ABC):
    """What a stage adds to the loop."""

    name: str
    steps: int
    batch: int
    learning_rate: float
    ema_decay = 0.999
    warmup = 100
    weight_decay = 1e-2
    sample_steps = 25  # DDIM steps of sample()'s pictures, where it makes any

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """What is trained, by name; frozen parameters have requires_grad False."""

    @abstractmethod
    def loss(self, draw: Draw, batch: int) -> Tensor:
        """Scalar loss of one batch."""

    def sample(self, path: Path) -> None:
        """Writes a picture that shows how far the averaged weights are (called with them loaded)."""

    def extra(self) -> dict:
        """Numbers that belong to the weights, such as the scaling factor; for the checkpoint."""
        return {}


class Average:
    """Exponential moving average of trained parameters, bias-corrected by a rising decay."""

    def __init__(self, networks: dict[str, nn.Module], decay: float) -> None:
        self.networks, self.decay = networks, decay
        self.shadow = {n: {k: v.detach().clone() for k, v in m.state_dict().items()} for n, m in networks.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, network in self.networks.items():
            shadow = self.shadow[name]
            floats, values = [], []
            for key, value in network.state_dict().items():
                if value.is_floating_point():
                    floats.append(shadow[key])
                    values.append(value)
                else:
                    shadow[key].copy_(value)
            torch._foreach_lerp_(floats, values, weight)

    def swap(self) -> None:
        """Exchanges the networks' weights with the averaged ones; call twice to undo."""
        for name, network in self.networks.items():
            current = {k: v.detach().clone() for k, v in network.state_dict().items()}
            network.load_state_dict(self.shadow[name])
            self.shadow[name] = current


def checkpoint_path(work_dir: Path, stage: str) -> Path:
    return Path(work_dir) / "checkpoints" / f"{stage}.pt"


def run_stage(stage: Stage, options: Options) -> dict:
    """Trains from the last checkpoint on, until steps or minutes are used up; returns it."""
    workers = Workers()
    steps = options.steps or stage.steps
    batch = options.batch or stage.batch
    limit = options.minutes * 60 if options.minutes else math.inf
    networks = stage.networks()
    for network in networks.values():
        network.train()
    parameters = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=stage.learning_rate, weight_decay=stage.weight_decay, fused=True)
    average = Average(networks, stage.ema_decay)
    path = checkpoint_path(options.work_dir, stage.name)
    step, spent, losses = 0, 0.0, []
    if path.exists():
        saved = torch.load(path, weights_only=False)
        step, spent, losses = saved["step"], saved["seconds"], saved["losses"]
        for name, network in networks.items():
            network.load_state_dict(saved["networks"][name])
        average.shadow = saved["ema"]
        optimizer.load_state_dict(saved["optimizer"])
    started = time.monotonic() - spent
    saved_at = sampled_at = time.monotonic()

    def checkpoint() -> dict:
        state = {
            "step": step,
            "seconds": time.monotonic() - started,
            "losses": losses,
            "networks": {n: m.state_dict() for n, m in networks.items()},
            "ema": average.shadow,
            "optimizer": optimizer.state_dict(),
            "extra": stage.extra(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
        return state

    def show() -> None:
        folder = Path(options.work_dir) / "samples" / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        draw_losses(losses, folder.parent / f"{stage.name}-loss.png", stage.name)
        average.swap()
        for network in networks.values():
            network.eval()
        with torch.no_grad():
            stage.sample(folder / f"{step:06d}.png")
        for network in networks.values():
            network.train()
        average.swap()

    bar = tqdm(total=steps, initial=step, desc=stage.name, mininterval=10, disable=workers.rank > 0)
    while (progress := workers.agree(max(step / steps, (time.monotonic() - started) / limit))) < 1:
        rate = stage.learning_rate * min(1.0, (step + 1) / stage.warmup) * (0.02 + 0.98 * _cosine(progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = stage.loss(Draw.of(options.seed, stage.name, step, workers.rank), batch // workers.count)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        workers.average(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        average.update(step)
        losses.append(float(loss.detach()))
        bar.update()
        bar.set_postfix_str(f"loss {np.mean(losses[-100:]):.4f}", refresh=False)
        if workers.rank > 0:
            continue
        now = time.monotonic()
        if now - saved_at > options.checkpoint_seconds:
            checkpoint()
            saved_at = time.monotonic()
        if now - sampled_at > options.sample_seconds:
            show()
            sampled_at = time.monotonic()
    bar.close()
    if workers.rank > 0:
        return {}
    show()
    state = checkpoint()
    log = {"stage": stage.name, "steps": step, "minutes": round(state["seconds"] / 60, 1), "batch": batch,
           "loss": round(float(np.mean(losses[-200:])), 5), "extra": state["extra"]}  # fmt: skip
    with (Path(options.work_dir) / "stages.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(log) + "\n")
    return state


def _cosine(progress: float) -> float:
    """1 for the first 40 %, then a half cosine to 0."""
    late = max(0.0, min(1.0, (progress - 0.4) / 0.6))
    return 0.5 + 0.5 * math.cos(math.pi * late)


def draw_losses(losses: list[float], path: Path, title: str) -> None:
    values = np.asarray(losses)
    window = max(1, len(values) // 200)
    smooth = values[: len(values) // window * window].reshape(-1, window).mean(axis=1)
    figure, axes = plt.subplots(figsize=(6, 3.5))
    axes.plot(np.arange(len(smooth)) * window, smooth)
    axes.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
