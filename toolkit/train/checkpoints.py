"""The family that a work directory's checkpoints make, at any time of a training."""

from pathlib import Path

import torch

from toolkit.models import MINI, Family, Preset, new_family
from toolkit.train.loop import checkpoint_path

# In this order; a later stage overrides what an earlier one trained.
STAGES = ("vae", "attributes", "tdm", "sdm", "decoder")

# Chosen on validation pairs with `python -m toolkit bounds`. Fractions of the number of steps.
DEFAULTS = {"guidance_scale": 3.0, "start_merge_fraction": 0.1, "final_fraction": 0.3}
INPUT_FIDELITY = {
    "low": {"start_merge_fraction": 0.2, "final_fraction": 0.5},
    "high": {"start_merge_fraction": 0.04, "final_fraction": 0.2},
}


def compose(work_dir: Path, preset: Preset = MINI, seed: int = 0, until: str | None = None) -> Family:
    """Averaged weights of every stage that has a checkpoint; random networks for the rest.

    until: leave this stage and later ones out. The subject model starts from the scene model's
    weights as long as it has none of its own.
    """
    work_dir = Path(work_dir)
    family = new_family(seed, preset)
    family.config |= {"defaults": DEFAULTS, "input_fidelity": INPUT_FIDELITY}
    networks = family.networks()
    for stage in STAGES:
        if stage == until:
            break
        path = checkpoint_path(work_dir, stage)
        if not path.exists():
            continue
        saved = torch.load(path, weights_only=False)
        for name, state in saved["ema"].items():
            if name in networks:  # heads of the attributes stage are not part of a family
                networks[name].load_state_dict(state)
        if stage == "tdm":
            family.unet_sdm.load_state_dict(family.unet_tdm.state_dict())
        family.config["scaling_factor"] = saved["extra"].get("scaling_factor", family.config["scaling_factor"])
        family.config["trained"].append({"stage": stage, "steps": saved["step"], "seconds": round(saved["seconds"])})
    return family.eval()
