"""Trains a family of networks: one stage, or all in order, in a work directory outside the checkout.

stages, in order
  vae          autoencoder: pictures to latents and back
  attributes   image encoder: what makes an identity (needs attribute labels)
  captions     text encoder: what a sentence says (needs labels of what the pictures show)
  tdm          scene model (TDM)
  sdm          subject model (SDM) and subject fuser, from the scene model's weights
  decoder      sharpens the decoder; latents stay as they are
  all          these six, each for its own number of steps
  export-checkpoint   writes the family that the present checkpoints make, at any time

A stage that was cut goes on from its last checkpoint. Each ends by writing the family to --out; its
loss curve and sample sheets are in WORK_DIR/samples, its line of time and memory in WORK_DIR/stages.jsonl.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.multiprocessing import ProcessExitedException
from tqdm import trange

from toolkit.data.store import SETS, Dataset, SetSpec, build, spec_in
from toolkit.errors import InputError
from toolkit.models import MINI, Preset, save
from toolkit.train import record
from toolkit.train.checkpoints import compose
from toolkit.train.folder import PictureFolder
from toolkit.train.latents import encode_pictures
from toolkit.train.launch import launch, launched, new_accelerator
from toolkit.train.loop import Options, run_stage
from toolkit.train.optimizer import OPTIMIZERS
from toolkit.train.pictures import GeneratedPictures, Pictures
from toolkit.train.stage import Data, NoLabelsError, Stage
from toolkit.train.stages import STAGES, stage_class
from toolkit.train.start import begin

# options that replace a number of the stage
SETTINGS = ("steps", "batch", "optimizer", "learning_rate", "weight_decay", "ema_decay", "null", "train_text_encoder",
            "text_only", "mask_weight", "snr_floor", "localisation", "restart_from_tdm", "train_image_encoder")  # fmt: skip

EXAMPLES = """\
examples
  the mini family from nothing, on the generated world
    python -m toolkit train all --work-dir ~/work
  an hour more for the scene model, from the committed weights
    python -m toolkit train tdm --work-dir ~/more --from model_repository/mini --minutes 60
  a subject model for Stable Diffusion 1.5, on pictures of your own, on the GPUs that `accelerate config` names
    accelerate launch -m toolkit train sdm --work-dir ~/sd15 --from stable-diffusion-v1-5 \\
      --image-encoder clip-vit-large-patch14 --data-dir ~/pictures --batch 128 --gradient-accumulation 4 \\
      --gradient-checkpointing --learning-rate 1e-5 --data-workers 4 --checkpoint-minutes 30
"""


@dataclass(frozen=True)
class Plan:
    """How stages are prepared: their data, their settings, and what to spend on memory.

    settings: replace the stage's own numbers (Stage.SETTINGS). data_dir: real pictures instead of the
    generated world, of which `sets` are drawn when a stage first needs them. cache_latents: None = for
    the generated world only.
    """

    options: Options
    preset: Preset = MINI
    settings: dict = field(default_factory=dict)
    data_dir: Path | None = None
    sets: tuple[SetSpec, ...] = SETS
    cache_latents: bool | None = None
    gradient_checkpointing: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("stage", choices=[*STAGES, "all", "export-checkpoint"], help="what to train, see above")
    parser.add_argument("--work-dir", type=Path, required=True, help="data, latents, checkpoints, samples and logs")
    parser.add_argument("--out", type=Path, help="folder for the family; default WORK_DIR/family")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default 0)")

    # fmt: off
    group = parser.add_argument_group("start, once a work directory (default: random weights of the mini family)")
    group.add_argument("--from", type=Path, dest="start", metavar="FOLDER",
                       help="exported family, family that `train` wrote, or Stable Diffusion in diffusers' layout")
    group.add_argument("--image-encoder", type=Path, metavar="FOLDER",
                       help="CLIP vision model that Stable Diffusion lacks; default FOLDER/image_encoder")

    group = parser.add_argument_group("data (default: the generated world)")
    group.add_argument("--data-dir", type=Path, metavar="FOLDER",
                       help="pictures with captions and masks, see toolkit/README.md")
    group.add_argument("--cache-latents", action=argparse.BooleanOptionalAction,
                       help="encode all pictures once, not in every step; default for the generated world")
    group.add_argument("--data-workers", type=int, default=0, metavar="N", help="processes that read ahead, a worker")
    group.add_argument("--prepare", action="store_true", help="draw or check the data, encode it, and stop")

    group = parser.add_argument_group("length and speed")
    group.add_argument("--minutes", type=float, help="time limit of the stage over all its runs")
    group.add_argument("--steps", type=int, help="steps instead of the stage's own number")
    group.add_argument("--batch", type=int, help="pictures a step, over all workers")
    group.add_argument("--workers", type=int, metavar="N",
                       help="processes that share a batch on a CPU (default 2); GPUs are `accelerate launch`'s")
    group.add_argument("--threads", type=int, default=1, metavar="N", help="threads a worker on a CPU (default 1)")
    group.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"],
                       help="default: accelerate's configuration, else bf16 on a GPU and no on a CPU")
    group.add_argument("--gradient-accumulation", type=int, default=1, metavar="N", help="parts of a worker's batch")
    group.add_argument("--gradient-checkpointing", action="store_true", help="less memory for a third more time")
    group.add_argument("--checkpoint-minutes", type=float, default=2.0, metavar="M", help="between two (default 2)")
    group.add_argument("--sample-minutes", type=float, default=4.0, metavar="M",
                       help="between two sample sheets (default 4)")

    group = parser.add_argument_group("recipe (default: the stage's own number)")
    group.add_argument("--optimizer", choices=OPTIMIZERS, help="muon: fewer steps from nothing; adamw: for given weights")
    group.add_argument("--learning-rate", type=float, help="after the warm-up")
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--ema-decay", type=float, help="of the averaged weights, which are what comes out")
    group.add_argument("--null", type=float, metavar="SHARE", help="tdm, sdm: rows with the empty prompt")
    group.add_argument("--train-text-encoder", action="store_true", default=None,
                       help="tdm: train the text encoder with the scene model, for other sentences than it knows")
    group.add_argument("--text-only", type=float, metavar="SHARE", help="sdm: rows that see no reference")
    group.add_argument("--mask-weight", type=float, help="tdm, sdm: how much more a subject's pixel counts")
    group.add_argument("--snr-floor", type=float, metavar="SNR",
                       help="tdm, sdm: least weight of a timestep in the picture's own error; 0 = min-SNR alone")
    group.add_argument("--localisation", type=float, metavar="WEIGHT", help="sdm: of the attention loss")
    group.add_argument("--train-image-encoder", action="store_true", default=None,
                       help="sdm: train the image encoder with the subject model, where there are no attribute labels")
    group.add_argument("--restart-from-tdm", action="store_true", default=None,
                       help="sdm: begin with the scene model's UNet though --from has a subject model")
    # fmt: on


def run(args: argparse.Namespace) -> int:
    try:
        if args.stage == "export-checkpoint":
            _begin(args)
            _write_family(args)
        else:
            stages = STAGES if args.stage == "all" else (args.stage,)
            if launched():
                _work(args, stages)
            else:
                _prepare_files(args, stages)  # before there are processes and their threads
                for stage in stages:
                    launch(_work, (args, (stage,)), args.workers, args.threads)
    except ProcessExitedException as error:  # a worker has said why
        return error.exit_code
    return 0


def _begin(args: argparse.Namespace) -> None:
    if args.start:
        begin(args.work_dir, args.start, args.image_encoder, args.seed)
    elif args.image_encoder:
        raise InputError("--image-encoder belongs to --from with a Stable Diffusion folder")


def _prepare_files(args: argparse.Namespace, stages: tuple[str, ...]) -> None:
    """What one process must write alone: the start's copy and the generated pictures."""
    _begin(args)
    for plan, stage in [(plan_of(args, stage), stage) for stage in stages]:
        if plan.data_dir is None:
            for split in ("train", "validation"):
                generated(plan, stage_class(stage).recipe, split)


def _write_family(args: argparse.Namespace) -> None:
    family, out = compose(args.work_dir, seed=args.seed), args.out or args.work_dir / "family"
    save(family, out)
    record.write(out / "training" / record.LOG, family.config["trained"])
    print(f"{out}: {record.summary(family.config['trained'])}")


def _work(args: argparse.Namespace, stages: tuple[str, ...]) -> None:
    """What every process does. Ends it with status 2 on bad input."""
    try:
        accelerator = new_accelerator(args.mixed_precision, args.gradient_accumulation)
        with accelerator.main_process_first():
            _prepare_files(args, stages)
        for name in stages:
            _train(args, name, accelerator)
    except InputError as error:
        print(f"train: {error}", file=sys.stderr)
        sys.exit(2)
    if accelerator.num_processes > 1:
        accelerator.end_training()


def _train(args: argparse.Namespace, name: str, accelerator: Accelerator) -> None:
    plan, began = plan_of(args, name), time.monotonic()
    try:
        stage = prepare(name, plan, accelerator)
    except NoLabelsError as error:
        if args.stage != "all":
            raise
        accelerator.print(f"{name} is left out: {error}")
        return
    if args.prepare:
        for index in trange(len(stage.examples), desc=f"{name} data", disable=not accelerator.is_main_process):
            if accelerator.is_main_process:
                stage.examples[index]  # reading is the check
    else:
        run_stage(stage, plan.options, accelerator, spent=time.monotonic() - began)
        if accelerator.is_main_process:
            _write_family(args)
    accelerator.wait_for_everyone()  # the next stage begins with what the main process wrote


def plan_of(args: argparse.Namespace, stage: str) -> Plan:
    """The stage's part of the command line. Raises InputError for a setting that the stage lacks."""
    given = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    known = stage_class(stage).SETTINGS
    foreign = [f"--{name.replace('_', '-')}" for name in given if name not in known]
    if foreign and args.stage != "all":
        raise InputError(f"stage {stage} has no {' or '.join(foreign)}")
    return Plan(
        options=Options(
            work_dir=args.work_dir,
            seed=args.seed,
            minutes=args.minutes,
            checkpoint_seconds=60 * args.checkpoint_minutes,
            sample_seconds=60 * args.sample_minutes,
            data_workers=args.data_workers,
        ),
        settings={name: value for name, value in given.items() if name in known},
        data_dir=args.data_dir,
        cache_latents=args.cache_latents,
        gradient_checkpointing=args.gradient_checkpointing,
    )


def prepare(name: str, plan: Plan, accelerator: Accelerator) -> Stage:
    """The stage on the family that the earlier stages' checkpoints make, its pictures opened and encoded."""
    options, cls = plan.options, stage_class(name)
    family = compose(options.work_dir, plan.preset, options.seed, until=name)
    if family.config.get("random_encoder") and (cls.reads_latents or name == "decoder"):
        raise InputError("the weights that training began from lack the autoencoder's encoder: train the vae first")
    train, validation = open_pictures(plan, cls.recipe, family.preset)
    latents = None
    if cls.reads_latents and (plan.data_dir is None if plan.cache_latents is None else plan.cache_latents):
        source = plan.data_dir.resolve().name if plan.data_dir else cls.recipe
        latents = encode_pictures(accelerator, family, train, options.work_dir / "latents" / f"{source}-train.npy")
    torch.manual_seed(options.seed)  # of what a stage adds to the family
    stage = cls(family, Data(train, validation, latents), plan.settings)
    if plan.gradient_checkpointing:
        stage.enable_gradient_checkpointing()
    return stage


def open_pictures(plan: Plan, recipe: str, preset: Preset) -> tuple[Pictures, Pictures]:
    """(training, validation) pictures. A folder without validation pictures shows training ones on its
    sample sheets."""
    if plan.data_dir is None:
        train, validation = (GeneratedPictures(generated(plan, recipe, s), preset) for s in ("train", "validation"))
        return train, validation
    train, validation = (PictureFolder(plan.data_dir, split, preset) for split in ("train", "validation"))
    if not train.captions:
        raise InputError(f"{plan.data_dir / 'metadata.jsonl'} names no picture to train on")
    return train, validation if validation.captions else train


def generated(plan: Plan, recipe: str, split: str) -> Dataset:
    """A data set of the generated world, drawn when it is first needed; of the seed and the count that lie
    there, where `make data` was told others than its own."""
    spec = next(spec for spec in plan.sets if (spec.recipe, spec.split) == (recipe, split))
    folder = plan.options.work_dir / "data" / spec.name
    return build(folder, spec_in(folder) or spec)
