"""Goldens of `sampler/`: schedules, timesteps, steps of every scheduler and seeded noise."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from toolkit.reference.scheduler import DDIM, DPMPP_2M, PNDM, SCHEDULERS, make_scheduler

SD15 = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}
VARIANTS = {
    "sd15": {},
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "alpha_one": {"set_alpha_to_one": True, "steps_offset": 0},
}
STEPS = [1, 2, 3, 4, 7, 10, 20, 25, 30, 50, 100, 333, 500, 501, 999]
# Few steps are special: multistep methods begin, and DPM-Solver++ also ends, with a lower order.
WALKS = [("sd15", "epsilon", steps) for steps in (1, 2, 3, 4, 5, 20, 50)]
WALKS += [("sd15", "v_prediction", 10), ("alpha_one", "epsilon", 10)]
SEEDS = [0, 1, 42, 3407, 2**31, 2**32 - 1]
SIZES = [1, 7, 8, 15, 16, 17, 31, 32, 33, 100, 1023, 1024]


def write(folder: Path, write_tensors) -> None:
    for name, change in VARIANTS.items():
        config = {**SD15, **change}
        scheduler = DDIMScheduler(**config)
        tensors = {
            "alphas_cumprod": scheduler.alphas_cumprod,
            "final_alpha_cumprod": scheduler.final_alpha_cumprod.reshape(1),
        }
        for steps in STEPS:
            scheduler.set_timesteps(steps)
            tensors[f"timesteps_{steps}"] = scheduler.timesteps.to(torch.int64)
        write_tensors(folder / f"schedule_{name}.safetensors", tensors, schedule=config)

    for variant, prediction, eta, steps in [
        ("sd15", "epsilon", 0.0, 50),
        ("sd15", "epsilon", 0.0, 7),
        ("sd15", "epsilon", 0.5, 20),
        ("sd15", "epsilon", 1.0, 10),
        ("sd15", "v_prediction", 0.0, 20),
        ("sd15", "v_prediction", 1.0, 10),
        ("linear", "epsilon", 0.3, 10),
        ("alpha_one", "epsilon", 0.0, 10),
        ("sd15", "epsilon", 0.0, 1),
    ]:
        config = {**SD15, **VARIANTS[variant], "prediction_type": prediction}
        name = f"ddim_{variant}_{prediction}_eta{eta}_{steps}.safetensors"
        write_tensors(folder / name, trajectory(config, steps, eta), schedule=config, steps=steps, eta=eta)

    for name in SCHEDULERS:
        for variant, prediction, steps in WALKS:
            config = {**SD15, **VARIANTS[variant], "prediction_type": prediction}
            file = f"walk_{name}_{variant}_{prediction}_{steps}.safetensors"
            write_tensors(folder / file, walk(name, config, steps), schedule=config, scheduler=name, steps=steps)
    timesteps = {}
    for name in (PNDM, DPMPP_2M):
        scheduler = make_scheduler(name, SD15)
        for steps in STEPS:
            scheduler.set_timesteps(steps)
            timesteps[f"{name}_{steps}"] = scheduler.timesteps
    write_tensors(folder / "timesteps.safetensors", timesteps, schedule=SD15)

    tensors = {}
    for seed in SEEDS:
        for size in SIZES:
            tensors[f"randn_{seed}_{size}"] = torch.randn(size, generator=generator(seed))
        source = generator(seed)
        # 64 bits of int64 are two draws of the Mersenne Twister, the high half first.
        wide = torch.empty(700, dtype=torch.int64).random_(-(2**63), None, generator=source)
        tensors[f"integers_{seed}"] = torch.stack([wide >> 32 & 0xFFFFFFFF, wide & 0xFFFFFFFF], 1).reshape(-1)
    tensors["randn_3407_16384"] = torch.randn(4, 64, 64, generator=generator(3407)).reshape(-1)
    # Draws that follow each other on one generator, as an initial latent and the noise of steps do.
    for seed, sizes in {3407: [1024, 1024, 1024], 42: [7, 3, 1024, 5, 17, 1, 16, 15, 33]}.items():
        source = generator(seed)
        for k, size in enumerate(sizes):
            tensors[f"sequence_{seed}_{k}_{size}"] = torch.randn(size, generator=source)
    write_tensors(folder / "randn.safetensors", tensors)


def trajectory(config: dict, steps: int, eta: float) -> dict[str, torch.Tensor]:
    """A walk of diffusers' DDIMScheduler along random predictions.

    timesteps [steps]; latents [steps+1, 4, 8, 8], row i is the input of step i; noise_pred,
    variance_noise (zeros where eta is 0) and pred_original_sample [steps, 4, 8, 8].
    """
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    source = generator(steps)
    shape = (1, 4, 8, 8)
    latents = [torch.randn(shape, generator=source)]
    predictions, noises, originals = [], [], []
    for t in scheduler.timesteps:
        prediction = torch.randn(shape, generator=source)
        noise = torch.randn(shape, generator=source) if eta > 0 else torch.zeros(shape)
        step = scheduler.step(prediction, t, latents[-1], eta=eta, variance_noise=noise if eta > 0 else None)
        predictions.append(prediction)
        noises.append(noise)
        originals.append(step.pred_original_sample)
        latents.append(step.prev_sample)
    return {
        "timesteps": scheduler.timesteps.to(torch.int64),
        "latents": torch.cat(latents),
        "noise_pred": torch.cat(predictions),
        "variance_noise": torch.cat(noises),
        "pred_original_sample": torch.cat(originals),
    }


def walk(name: str, config: dict, steps: int) -> dict[str, Tensor]:
    """A walk of a scheduler along the predictions of a network that knows clean latents to be normal with mean 0.5 and
    variance 0.25, and errs a little: latents stay as large as a picture's, so that whole walks can be compared.

    timesteps [K], one more than `steps` for PNDM; latents [K+1, 4, 4, 4], row i is the input of iteration i;
    noise_pred and pred_original_sample [K, 4, 4, 4].
    """
    scheduler = make_scheduler(name, config)
    scheduler.set_timesteps(steps)
    original = make_scheduler(DDIM, config)  # PNDM's does not tell
    original.set_timesteps(steps)
    source = generator(steps)
    latents, predictions, originals = [torch.randn(1, 4, 4, 4, generator=source)], [], []
    for t in scheduler.timesteps:
        alpha, z = scheduler.alphas_cumprod[t], latents[-1]
        clean = (0.5 * (1 - alpha) + 0.25 * alpha**0.5 * z) / (0.25 * alpha + 1 - alpha)  # the posterior's mean
        prediction = (z - alpha**0.5 * clean) / (1 - alpha) ** 0.5
        if config["prediction_type"] == "v_prediction":
            prediction = alpha**0.5 * prediction - (1 - alpha) ** 0.5 * clean
        prediction = prediction + 0.1 * torch.randn(z.shape, generator=source)
        predictions.append(prediction)
        originals.append(original.step(prediction, t, z).pred_original_sample)
        latents.append(scheduler.step(prediction, t, z).prev_sample)
    return {
        "timesteps": scheduler.timesteps,
        "latents": torch.cat(latents),
        "noise_pred": torch.cat(predictions),
        "pred_original_sample": torch.cat(originals),
    }


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)
