"""Converts weights of Stable Diffusion 1.5's kind, of any size, to the family folder that gateway and Triton load.

sources
  Stable Diffusion 1.x     a folder in diffusers' layout (model_index.json), with --image-encoder. Draws scenes; refuses
                           subjects, since its subject model has learnt nothing of reference images
  the authors' weights     --sdm and --tdm, with the Stable Diffusion folder that they were trained from: the TDM gives
                           its UNet; the SDM its UNet, text encoder (for both prompts), image encoder and subject fuser;
                           the folder tokenizer, scheduler and autoencoder
  training's weights       a folder that `train` wrote (family.json), or a work directory at any time

Weights are read as safetensors or as PyTorch's files, whole or in shards, without running anything that is in them.
Names and shapes of all tensors must be those that the authors' versions of the libraries wrote
(toolkit/models/manifest.json) or that today's write; NaN, infinity, cut files and false checksums are refused.

The folder holds models/ in FP32 for CPUs and onnxruntime/ in FP16 for GPUs, with the safety checker if the Stable
Diffusion folder has one, and the configurations of all back ends. `pipeline.json` is written last: a folder without it
is not complete.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from toolkit.convert.sources import read, read_authors
from toolkit.disk import check_room
from toolkit.errors import InputError
from toolkit.export.command import GRAPHS, export, size_on_disk, write_card
from toolkit.export.description import LICENSE
from toolkit.export.networks import Network
from toolkit.export.safety import FOLDER, safety_network
from toolkit.models import Family
from toolkit.models.checkpoint import load_torch
from toolkit.train.checkpoints import compose

PREVIEW_PICTURES = 32
CARD_FILE = "WEIGHTS.md"  # a folder with configurations of other back ends has a README.md of its own
EXAMPLES = """\
examples
  the authors' release
    python -m toolkit convert stable-diffusion-v1-5 --sdm SDM/pytorch_model.bin --tdm TDM/pytorch_model.bin \\
      --out /srv/models/sd15
  weights of your own training
    python -m toolkit convert ~/sd15 --out /srv/models/portraits --license "in-house"
  Stable Diffusion alone, to try a deployment with
    python -m toolkit convert stable-diffusion-v1-5 --image-encoder clip-vit-large-patch14 --out /srv/models/scenes
"""
CARD = """\
# {name}

{description}

{notes}## Networks

{precision}

<!-- budget -->
<!-- /budget -->

{training}## Licence

{license}
"""
TRAINING = """\
## Training

<!-- stages -->
<!-- /stages -->

"""
PRECISION = {
    "stored16": "Weights are stored in FP16 and computed in FP32, in `models/`; nothing is here for GPUs.",
    "both": "FP32 is in `models/`, for CPUs; FP16 in `onnxruntime/`, for GPUs. Errors are the largest differences from "
    "PyTorch in FP32, relative or absolute, whichever is smaller; at most 1e-4 and 5e-3 are let pass. Float16 ends at "
    "65504.",
}
UNTRAINED = (
    "the subject model is not trained: the subject fuser is random and unet_sdm equals unet_tdm. The family draws "
    "scenes and refuses requests with reference images. `python -m toolkit train sdm` trains the subject model"
)


@dataclass
class Source:
    """What is converted: the weights, where they are from in words, the Unix time at which they were made, and notes
    for whoever serves them."""

    family: Family
    origin: str
    created: int
    notes: list[str] = field(default_factory=list)
    checker: Network | None = None  # safety checker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("source", type=Path, help="Stable Diffusion folder, family or work directory of training")
    parser.add_argument("--out", type=Path, required=True, help="folder for the family; must hold none yet")
    parser.add_argument("--sdm", type=Path, metavar="FILE", help="the authors' subject model, or the folder it lies in")
    parser.add_argument("--tdm", type=Path, metavar="FILE", help="the authors' scene model, or the folder it lies in")
    parser.add_argument(
        "--image-encoder", type=Path, metavar="FOLDER",
        help="CLIP vision model that Stable Diffusion lacks; with --sdm only its config.json is read, "
        "and only needed where that is not CLIP ViT-L/14",
    )  # fmt: skip
    parser.add_argument(
        "--safety-checker", type=Path, metavar="FOLDER",
        help=f"Stable Diffusion folder whose {FOLDER}/ pictures are checked with; default SOURCE, if it has one",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=GRAPHS, default="both",
        help="both: FP32 for CPUs and FP16 for GPUs; stored16: CPUs alone, a third of the disk, and training can begin "
        "with it; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--name", help="of the family in requests; default the last part of --out")
    parser.add_argument("--license", help="of the weights; default what their publishers say, as far as it is known")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER",
        help=f"up to {PREVIEW_PICTURES} pictures typical of the family, to fit its previews to; "
        "default pictures of the generated world",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    if (args.out / "pipeline.json").exists():
        raise InputError(f"{args.out} holds a family already: remove it or name another folder with --out")
    source = read_source(args)
    family, config = source.family, source.family.config
    config["name"] = args.name or args.out.resolve().name
    config["license"] = args.license or _license(config)
    config["description"] = f"{source.origin}, {family.preset.image_size}x{family.preset.image_size} pixels."
    notes = source.notes
    if config.get("random_fuser"):
        config["description"] += " Without a trained subject model: it refuses requests with reference images."
        notes = [UNTRAINED, *notes]
    check_room(args.out, size_on_disk(family, args.precision, source.checker))
    pictures = read_pictures(args.pictures, family.preset.image_size) if args.pictures else None
    for note in notes:
        print(f"note: {note}")
    args.out.mkdir(parents=True, exist_ok=True)
    listed = "".join(f"- {note[0].upper()}{note[1:]}.\n" for note in notes)
    card = CARD.format(
        notes=listed and listed + "\n", precision=PRECISION[args.precision],
        training=TRAINING if config["trained"] else "", **config,
    )  # fmt: skip
    (args.out / CARD_FILE).write_text(card, encoding="utf-8")
    budget = export(family, args.out, source.created, pictures, precision=args.precision, checker=source.checker)
    write_card(args.out / CARD_FILE, family, budget)
    print(f"{args.out}: {config['name']}, {config['description']} Licence: {config['license']}\n\n{budget}")


def read_source(args: argparse.Namespace) -> Source:
    source = _read_networks(args)
    folder = args.safety_checker or args.source
    if args.safety_checker or (folder / FOLDER).is_dir():
        source.checker = safety_network(folder)
    return source


def _read_networks(args: argparse.Namespace) -> Source:
    torch.manual_seed(0)  # of what the source lacks
    folder = args.source
    if args.sdm or args.tdm:
        if not (args.sdm and args.tdm):
            raise InputError("--sdm and --tdm belong together: the method needs both models")
        family, notes = read_authors(folder, args.sdm, args.tdm, args.image_encoder)
        return Source(family, "Face-Diffuser, its authors' weights", _made(args.sdm, args.tdm), notes)
    name = folder.resolve().name
    if (folder / "model_index.json").is_file():
        return Source(read(folder, args.image_encoder), f"Stable Diffusion of {name}", _made(folder))
    work_dir = (folder / "checkpoints").is_dir() and not args.image_encoder
    family = _read_work_dir(folder) if work_dir else read(folder, args.image_encoder)
    return Source(family, f"Face-Diffuser, trained in {name}", _made(folder / "checkpoints" if work_dir else folder))


def _read_work_dir(folder: Path) -> Family:
    """Raises InputError where a checkpoint is damaged or the scene model is random yet."""
    for checkpoint in folder.glob("checkpoints/*.pt"):
        load_torch(checkpoint)
    family = compose(folder)
    stages = {record["stage"] for record in family.config["trained"]}
    if not (folder / "start").exists():
        if lacking := {"vae", "tdm"} - stages:
            raise InputError(f"{folder} began with random weights and has not trained {', '.join(sorted(lacking))} yet")
        if "sdm" not in stages:
            family.config["random_fuser"] = True
    return family


def _license(config: dict) -> str:
    """Of the weights that the family began with, or of what was trained from nothing."""
    if "license" not in config and "from" in config:
        raise InputError(f"nobody noted the licence of {config['from']}, with which training began: give --license")
    return config.get("license", LICENSE)


def read_pictures(folder: Path, size: int) -> torch.Tensor:
    """Up to PREVIEW_PICTURES of a folder, in order of names, [B, 3, size, size] in [-1, 1]: cut to squares, resized."""
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not paths:
        raise InputError(f"--pictures: {folder} holds no JPEG, PNG or WebP file")
    pictures = []
    for path in paths[:PREVIEW_PICTURES]:
        try:
            with Image.open(path) as image:
                pictures.append(ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (size, size)))
        except OSError as error:
            raise InputError(f"--pictures: {path} cannot be read: {error}") from error
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _made(*places: Path) -> int:
    """Unix time of the newest file in the places, which are files or folders."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    return int(max((file.stat().st_mtime for file in files), default=0))
