"""Processes for a training: those that accelerate was asked for, or one for each core of a CPU.

On a CPU each worker has one thread and gradients are averaged once a step. Threads of one process
meet at a barrier in every operator, which on cores shared with other work was seven times slower.
"""

import os
import signal
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    PrepareForLaunch,
    patch_environment,
)

from toolkit.errors import InputError

# Of one process waiting for another that encodes latents or draws a sample sheet.
_PATIENCE = timedelta(hours=2)


def launched() -> bool:
    """Whether `accelerate launch` or torchrun started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "LOCAL_RANK" in os.environ


def launch(function: Callable, args: tuple, workers: int | None, threads: int) -> None:
    """Calls function(*args), in `workers` processes of `threads` threads on a CPU.

    None: one worker with an accelerator, else two. Under a launcher the call is made as it is:
    there every process comes here.
    """
    if workers is None:
        workers = 1 if torch.accelerator.is_available() else min(2, os.cpu_count() or 1)
    if launched() or workers == 1:
        if not launched():
            torch.set_num_threads(threads)
        function(*args)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with patch_environment(
        world_size=workers, nproc=workers, master_addr="127.0.0.1", master_port=port,
        accelerate_use_cpu="yes", omp_num_threads=threads,
    ):  # fmt: skip
        torch.multiprocessing.spawn(PrepareForLaunch(_work, "MULTI_CPU"), (function, *args), nprocs=workers)


def _work(function: Callable, *args) -> None:
    # When the parent dies, torch sends its workers SIGINT, which a shell's background jobs ignore by inheritance.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function(*args)


def new_accelerator(mixed_precision: str | None = None, gradient_accumulation: int = 1) -> Accelerator:
    """mixed_precision: no, bf16 or fp16; None = as accelerate's configuration says, else bf16 on an
    accelerator and full precision on a CPU.

    Measured on a CPU with AVX-512 but no matrix unit: a step of either UNet or of the autoencoder
    takes 1.7 to 2.0 times as long in bf16 as in full precision.

    Raises InputError for fp16 on a CPU, where accelerate would quietly compute in full precision.
    """
    if mixed_precision is None and "ACCELERATE_MIXED_PRECISION" not in os.environ:
        mixed_precision = "bf16" if torch.accelerator.is_available() else "no"
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=gradient_accumulation,
        kwargs_handlers=[
            # A stage may leave parameters out of a step: a decoder that stands still for a while.
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=_PATIENCE),
        ],
    )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("mixed precision fp16 needs a GPU: take bf16 or no")
    return accelerator


def half_precision(device: torch.device) -> torch.autocast:
    """bf16 for pictures that show or measure a training; off on a CPU, where it is slower (new_accelerator)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu")
