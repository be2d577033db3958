"""Latents of a whole data set, encoded once and kept beside the checkpoints."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from toolkit.models import Family
from toolkit.train.pictures import Pictures, digest_of
from toolkit.train.pixels import to_pixels

_CHUNK = 32


@torch.no_grad()
def encode_pictures(accelerator: Accelerator, family: Family, pictures: Pictures, path: Path) -> np.ndarray:
    """Scaled posterior means [N, 4, h, w] float16, from `path` if the same encoder made them of the
    same pictures. All processes encode a share."""
    stamp = {
        "encoder": _digest_of_encoder(family),
        "pictures": digest_of(pictures),
        "scaling_factor": family.config["scaling_factor"],
    }
    mark = path.with_suffix(".json")
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == stamp:
        return np.load(path, mmap_mode="r")
    accelerator.wait_for_everyone()  # nobody writes before all have looked
    count, size = len(pictures.captions), family.preset.latent_size
    if accelerator.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        mark.unlink(missing_ok=True)
        shape = (count, family.vae.autoencoder.config.latent_channels, size, size)
        np.lib.format.open_memmap(path, "w+", np.float16, shape).flush()
    accelerator.wait_for_everyone()
    latents = np.lib.format.open_memmap(path, "r+")
    vae = family.vae.to(accelerator.device)
    chunks = range(_CHUNK * accelerator.process_index, count, _CHUNK * accelerator.num_processes)
    for start in tqdm(chunks, desc=f"latents {path.stem}", disable=not accelerator.is_main_process, mininterval=5):
        rows = range(start, min(start + _CHUNK, count))
        pixels = to_pixels(np.stack([pictures.image(i) for i in rows])).to(accelerator.device)
        with accelerator.autocast():
            mean = vae.encode(pixels).mode()
        latents[rows.start : rows.stop] = (mean.float() * family.config["scaling_factor"]).half().cpu().numpy()
    latents.flush()
    vae.to("cpu")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        mark.write_text(json.dumps(stamp), encoding="utf-8")
    return np.load(path, mmap_mode="r")


def _digest_of_encoder(family: Family) -> str:
    digest = hashlib.sha256()
    for network in (family.vae.autoencoder.encoder, family.vae.autoencoder.quant_conv):
        for value in network.state_dict().values() if network is not None else ():
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
