"""Random weights in the authors' layout, of any sizes that a manifest describes.

Two state dicts and a Stable Diffusion folder, in FP32, under the names that the authors' versions of the libraries
wrote. Every weight has a variance of 1 / fan-in, so that activations stay near 1 through all depths, in float16 too.
Where the check would mean nothing with such weights, gains say otherwise:

- a random UNet hardly reads its prompt: an average over 77 tokens of which most are padding. Larger keys make
  cross attention choose among tokens, a larger output is heard beside the rest.
- outputs are small, so that FP16 graphs, whose errors are a share of them, stay within what `convert` lets pass:
  the text's states, image embeddings, and noise_pred, for which guidance makes up.
- the decoder's picture has a standard deviation of some 30 levels of 255, of which hardly any is clipped.
- faces are as loud as the nouns that they are written into, and differ from one another.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import PNDMScheduler
from safetensors.torch import save_file
from torch import Tensor

from toolkit.check_sd15.case import Files
from toolkit.disk import check_room
from toolkit.models.layout import CALLED, manifest, manifest_tensors
from toolkit.models.tokenizer import write_tokenizer

# Network → pattern of a name → gain. What SiLU leaves of a deviation of 1 is 0.6.
GAINS = {
    "unet": {r".*attn2\.to_k\..*": 2.5, r".*attn2\.to_out\..*": 2.2, r"conv_out\..*": 0.15 / 0.6},
    "vae": {r"decoder\.conv_out\..*": 0.25 / 0.6},
    "text_encoder": {r"final_layer_norm\..*": 0.7},
    "image_encoder": {r".*out_proj\..*": 1.5, r"visual_projection\..*": 0.8},
    "subject_fuser": {r"mlp1\.fc2\..*": 3.0, r"layer_norm\.weight": 1.5},
}
BIAS = 0.05  # deviation of biases, and of norms' weights around 1
# Parts of the authors' modules → (network, seed). One text encoder and one autoencoder are in both, as in theirs.
SDM = {
    "unet": ("unet", 1),
    "text_encoder": ("text_encoder", 2),
    "vae": ("vae", 3),
    "image_encoder": ("image_encoder", 4),
    "postfuse_module": ("subject_fuser", 5),
}
TDM = {"unet": ("unet", 6), "text_encoder": SDM["text_encoder"], "vae": SDM["vae"]}


def sizes_on_disk(path: Path) -> tuple[int, int]:
    """Bytes, about, of the weights that a manifest describes, and of the family that `convert` makes of them."""
    count = {
        network: sum(math.prod(shape) for shape in manifest_tensors(network, path).values())
        for network in manifest(path)["tensors"]
    }
    parts = [network for network, _ in (*SDM.values(), *TDM.values())] + ["vae"]
    return 4 * sum(count[part] for part in parts), 6 * (sum(count.values()) + count["unet"]) + 2**25


def write(files: Files, path: Path) -> None:
    """path: of the manifest. Raises InputError where the disk has no room for them and for what becomes of them."""
    check_room(files.work, sum(sizes_on_disk(path)))
    sizes = manifest(path)["sizes"]
    for file, parts in ((files.sdm, SDM), (files.tdm, TDM)):
        state = {
            f"{part}.{name}": tensor
            for part, (network, seed) in parts.items()
            for name, tensor in draw(network, seed, path)
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        print(f"{file}: {sum(t.numel() for t in state.values()) / 1e6:,.0f} M parameters", flush=True)
        torch.save(state, file)
        del state
    folder = files.stable_diffusion
    for network in ("unet", "text_encoder", "vae"):
        _write_config(folder / network, network, sizes[network])
    _write_config(files.image_encoder, "image_encoder", sizes["image_encoder"])
    save_file(dict(draw(*SDM["vae"], path)), folder / "vae" / "diffusion_pytorch_model.safetensors")
    write_tokenizer(folder / "tokenizer")
    PNDMScheduler(  # Stable Diffusion 1.5's scheduler_config.json
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}\n', encoding="utf-8")


def draw(network: str, seed: int, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a network, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in manifest_tensors(network, path).items():
        if name.endswith("position_ids"):
            yield name, torch.arange(shape[1])[None]
            continue
        mean, deviation = _distribution(network, name, shape)
        yield name, torch.empty(shape).normal_(mean, deviation, generator=generator)


def _distribution(network: str, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(mean, standard deviation) of a tensor."""
    gain = next((g for pattern, g in GAINS.get(network, {}).items() if re.fullmatch(pattern, name)), 1.0)
    if "embedding" in name and "patch_embedding" not in name and "time_embedding" not in name:
        return 0.0, 1.0 if "token" in name else 0.3
    if len(shape) > 1:
        return 0.0, gain / math.sqrt(math.prod(shape[1:]))
    if name.endswith("weight"):  # of a norm
        return gain, gain * BIAS
    return 0.0, gain * BIAS


def _write_config(folder: Path, network: str, sizes: dict) -> None:
    """What diffusers and transformers need to know of it; what is not here is the classes' default."""
    kind = "_class_name" if network in ("unet", "vae") else "model_type"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({kind: CALLED[network], **sizes}, indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
