"""The family that a work directory's checkpoints make, at any time of a training."""

import sys
from pathlib import Path

import torch

from toolkit.models import MINI, Family, Preset, new_family
from toolkit.train.loop import checkpoint_path
from toolkit.train.stages import STAGES
from toolkit.train.start import start_of

# Of the mini family: what docs/report/choices.json says of the row `full`. Fractions of the number of steps; 0 is the
# nearest to the chosen -1 (no scene construction) that a fraction can say: the first step alone.
DEFAULTS = {"guidance_scale": 2.0, "start_merge_fraction": 0.0, "final_fraction": 0.98}
INPUT_FIDELITY = {
    "low": {"start_merge_fraction": 0.3, "final_fraction": 0.98},
    "high": {"start_merge_fraction": 0.0, "final_fraction": 0.8},
}


def compose(work_dir: Path, preset: Preset = MINI, seed: int = 0, until: str | None = None) -> Family:
    """Averaged weights of every stage that has a checkpoint, a later stage's over an earlier one's; for
    the rest what the work directory began from, or random networks of the preset. Warns of a stage that
    was trained on other weights than the earlier stages have now.

    until: leave this stage and later ones out. The subject model has the scene model's weights as
    long as neither a stage nor the start gave it its own.
    """
    work_dir = Path(work_dir)
    start = start_of(work_dir)
    family = start or new_family(seed, preset)
    if family.preset.name == MINI.name:
        family.config |= {"defaults": DEFAULTS, "input_fidelity": INPUT_FIDELITY}
    has_subject_model = start is not None and _differ(family)
    networks = family.networks()
    for stage in STAGES:
        if stage == until:
            break
        path = checkpoint_path(work_dir, stage)
        if not path.exists():
            continue
        saved = torch.load(path, map_location="cpu", mmap=True)
        with torch.no_grad():
            for name, average in zip(saved["names"], saved["ema"]["shadow_params"], strict=True):
                network, parameter = name.split(".", 1)
                if network in networks:  # heads of the attributes stage are not part of a family
                    networks[network].get_parameter(parameter).copy_(average)
        if stage == "tdm" and not has_subject_model:
            family.unet_sdm.load_state_dict(family.unet_tdm.state_dict())
        if stage == "vae":
            family.config.pop("random_encoder", None)
        if stage == "sdm":
            family.config.pop("random_fuser", None)
        _warn_of_age(stage, path, saved["setup"]["built_on"], family)
        family.config |= saved["config"]
        family.config["trained"].append(saved["record"])
    return family.eval()


def _warn_of_age(stage: str, path: Path, built_on: dict[str, int], family: Family) -> None:
    now = {record["stage"]: record["steps"] for record in family.config["trained"]}
    for earlier, steps in built_on.items():
        if now.get(earlier) != steps:
            print(
                f"train: {path} was trained on {earlier} after {steps} steps, which now has {now.get(earlier)}: delete it to "
                f"train {stage} again on what is there",
                file=sys.stderr,
            )


def _differ(family: Family) -> bool:
    ours, theirs = family.unet_sdm.state_dict(), family.unet_tdm.state_dict()
    return any(not torch.equal(value, theirs[name]) for name, value in ours.items())
