"""The training loop of every stage: deterministic steps, averaged weights, resumable.

Step n draws everything random from (seed, stage, n, part), so a run that was cut and resumed reaches
the same weights as one that was not. Only `minutes` breaks that: with a time limit the learning
rate follows whichever of steps and time is further on. accelerate does the rest: devices, processes,
mixed precision, accumulated gradients.
"""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, send_to_device
from diffusers.training_utils import EMAModel
from matplotlib.figure import Figure
from torch.utils.data import DataLoader
from tqdm import tqdm

from toolkit.errors import InputError
from toolkit.train import record
from toolkit.train.draws import Draw, StepBatches
from toolkit.train.optimizer import new_optimizer
from toolkit.train.stage import Stage


@dataclass(frozen=True)
class Options:
    """Of one run of a stage.

    minutes: wall-clock limit over all resumed runs of the stage, or None.
    checkpoint_seconds: between two checkpoints; sample_seconds: between two sample sheets.
    data_workers: processes that read pictures ahead, for each worker; 0 = read between steps.
    """

    work_dir: Path
    seed: int = 0
    minutes: float | None = None
    checkpoint_seconds: float = 120.0
    sample_seconds: float = 240.0
    data_workers: int = 0


def checkpoint_path(work_dir: Path, stage: str) -> Path:
    return Path(work_dir) / "checkpoints" / f"{stage}.pt"


def run_stage(stage: Stage, options: Options, accelerator: Accelerator, spent: float = 0.0) -> dict:
    """Trains from the last checkpoint on, until steps or minutes are used up.

    spent: seconds that went into preparing the stage. Returns the checkpoint, in the main process;
    elsewhere an empty dict. Raises FloatingPointError if the loss is no longer finite.
    """
    run = _Run(stage, options, accelerator, spent)
    try:
        while (progress := run.progress()) < 1:
            run.train_step(progress)
            run.save_in_time()
        return run.finish()
    finally:
        run.bar.close()
        accelerator.free_memory()


class _Run:
    def __init__(self, stage: Stage, options: Options, accelerator: Accelerator, spent: float) -> None:
        self.stage, self.options, self.accelerator = stage, options, accelerator
        stage.to(accelerator.device).train()
        trained = [(name, p) for name, p in stage.named_parameters() if p.requires_grad]
        self.names, self.parameters = [name for name, _ in trained], [p for _, p in trained]
        optimizer = new_optimizer(stage)
        self.ema = EMAModel(self.parameters, decay=stage.ema_decay, foreach=True)
        self.step, self.seconds, self.losses, self.measured = 0, 0.0, [], {}
        self.setup = {"seed": options.seed} | stage.setup()
        self.path = checkpoint_path(options.work_dir, stage.name)
        saved = torch.load(self.path, map_location="cpu") if self.path.exists() else None
        if saved:
            self._load(saved)
        self.first_step, self.shown = self.step, bool(saved)
        self.model, self.optimizer = accelerator.prepare(stage, optimizer)
        if saved:
            self.optimizer.load_state_dict(saved["optimizer"])
            if accelerator.scaler and saved["scaler"]:
                accelerator.scaler.load_state_dict(saved["scaler"])
        self.batches = self._batches()
        self.started = time.monotonic() - self.seconds - spent
        self.saved_at = self.sampled_at = time.monotonic()
        self.bar = tqdm(
            total=stage.steps, initial=self.step, desc=stage.name, mininterval=5, unit="step",
            disable=not accelerator.is_main_process,
        )  # fmt: skip

    def _load(self, saved: dict) -> None:
        if saved["names"] != self.names:
            raise InputError(
                f"{self.path} trained other parameters than this run would: give the options of its first run, or "
                "another --work-dir"
            )
        if differing := [name for name, value in self.setup.items() if saved["setup"].get(name) != value]:
            then, now = ({name: setup.get(name) for name in differing} for setup in (saved["setup"], self.setup))
            raise InputError(
                f"{self.path} began with {then}, not {now}: give the options of its first run, delete it to train the "
                "stage anew, or take another --work-dir"
            )
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.losses, self.measured = saved["losses"], saved["record"]["measured"]
        self.stage.restore_config(saved["config"])
        with torch.no_grad():
            for parameter, value in zip(self.parameters, saved["weights"], strict=True):
                parameter.copy_(value)
        self.ema.load_state_dict(saved["ema"])
        self.ema.to(self.accelerator.device)

    def _batches(self):
        parts = self.accelerator.num_processes * self.accelerator.gradient_accumulation_steps
        batch, rest = divmod(self.stage.batch, parts)
        if rest or not batch:
            raise InputError(
                f"a batch of {self.stage.batch} pictures does not divide by {parts} "
                "(workers times accumulated gradients): change --batch"
            )
        self.parts = range(self.accelerator.process_index, parts, self.accelerator.num_processes)
        sampler = StepBatches(
            len(self.stage.examples), batch, self.options.seed, self.stage.name, self.step, self.parts
        )
        return iter(DataLoader(self.stage.examples, batch_sampler=sampler, num_workers=self.options.data_workers))

    def progress(self) -> float:
        """In [0, 1] of the steps or of the minutes, whichever is further; the same in all processes."""
        progress = self.step / self.stage.steps
        if self.options.minutes:
            elapsed = (time.monotonic() - self.started) / (60 * self.options.minutes)
            device = self.accelerator.device
            progress = float(broadcast(torch.tensor(max(progress, elapsed), dtype=torch.float32, device=device)))
            if progress > 0:
                self.bar.total = round(self.step / min(progress, 1.0)) or None  # for the time that is left
        return progress

    def train_step(self, progress: float) -> None:
        stage, accelerator = self.stage, self.accelerator
        stage.begin_step(progress)
        rate = stage.learning_rate * min(1.0, (self.step + 1) / stage.warmup) * (0.02 + 0.98 * _cosine(progress))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = 0.0
        for part in self.parts:
            batch = send_to_device(next(self.batches), accelerator.device)
            with accelerator.accumulate(self.model):
                loss = self.model(batch, Draw.of(self.options.seed, stage.name, self.step, part))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.parameters, 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss of step {self.step} is {total}: try a lower --learning-rate")
        self.ema.step(self.parameters)
        self.step += 1
        self.losses.append(total / len(self.parts))
        self.bar.update()
        self.bar.set_postfix_str(f"loss {np.mean(self.losses[-100:]):.4f}", refresh=False)

    def save_in_time(self) -> None:
        if not self.accelerator.is_main_process:
            return
        due = time.monotonic() - self.saved_at > self.options.checkpoint_seconds
        # what goes into the family's config is measured before the first checkpoint
        if time.monotonic() - self.sampled_at > self.options.sample_seconds or due and not self.shown:
            self.show()
            self.sampled_at = time.monotonic()
        if due:
            self.checkpoint()
            self.saved_at = time.monotonic()

    def finish(self) -> dict:
        peak = torch.tensor(record.peak_memory_mib(), device=self.accelerator.device)
        peak = round(float(self.accelerator.reduce(peak, "sum")))
        if not self.accelerator.is_main_process:
            return {}
        if self.step == 0:
            raise InputError(f"{self.options.minutes} minutes were over before the first step: give more --minutes")
        if self.step == self.first_step:
            self.bar.write(f"{self.stage.name} is complete: {self.step} steps")
            return torch.load(self.path, map_location="cpu")
        self.show()
        state = self.checkpoint(peak)
        record.append(Path(self.options.work_dir) / record.LOG, state["record"])
        return state

    def checkpoint(self, peak: int | None = None) -> dict:
        """Written beside the last one first, so that a cut leaves one of them whole."""
        self.seconds = time.monotonic() - self.started
        scaler = self.accelerator.scaler
        state = {
            "setup": self.setup,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "names": self.names,
            "weights": [p.detach() for p in self.parameters],
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "config": self.stage.family_config(),
            "record": {
                "stage": self.stage.name,
                "steps": self.step,
                "batch": self.stage.batch,
                "workers": self.accelerator.num_processes,
                "minutes": round(self.seconds / 60, 3),
                "peak_memory_mib": peak,
                "peak_device_memory_mib": record.peak_device_memory_mib(self.accelerator.device),
                "precision": self.accelerator.mixed_precision,
                "loss": round(float(np.mean(self.losses[-200:])), 5),
                "measured": self.measured,
                "from": self.stage.family.config.get("from"),
            },
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, self.path.with_suffix(".part"))
        os.replace(self.path.with_suffix(".part"), self.path)
        return state

    @torch.no_grad()
    def show(self) -> None:
        """Loss curve and sample sheet, with the averaged weights."""
        folder = Path(self.options.work_dir) / "samples" / self.stage.name
        folder.mkdir(parents=True, exist_ok=True)
        draw_losses(self.losses, folder.parent / f"{self.stage.name}-loss.png", self.stage.name)
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.stage.eval()
        self.shown = True
        self.measured = self.stage.sample(folder / f"{self.step:06d}.png")
        self.stage.train()
        self.ema.restore(self.parameters)
        if self.measured:
            text = ", ".join(f"{name} {value}" for name, value in self.measured.items())
            self.bar.write(f"{self.stage.name}, step {self.step}: {text}")


def _cosine(progress: float) -> float:
    """1 for the first 40 %, then a half cosine to 0."""
    late = max(0.0, min(1.0, (progress - 0.4) / 0.6))
    return 0.5 + 0.5 * math.cos(math.pi * late)


def draw_losses(losses: list[float], path: Path, title: str) -> None:
    """Every step's loss, pale, and the mean over a hundredth of the steps."""
    values = np.asarray(losses)
    window = max(1, len(values) // 100)
    smooth = np.convolve(values, np.full(window, 1 / window), mode="valid")
    figure = Figure(figsize=(6, 3.5), layout="tight")
    axes = figure.subplots()
    axes.plot(values, color="tab:blue", alpha=0.2, linewidth=0.5)
    axes.plot(np.arange(len(smooth)) + (window - 1) / 2, smooth, color="tab:blue")
    low, high = np.percentile(values, [0.5, 99.5])
    axes.set(title=title, xlabel="step", ylabel="loss")
    if low > 0:
        axes.set(yscale="log", ylim=(low * 0.9, high * 1.1))
    figure.savefig(path, dpi=80)
