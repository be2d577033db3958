"""Stable Diffusion's safety checker as a network of the contract."""

from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig

from toolkit.errors import InputError
from toolkit.export.networks import Network
from toolkit.models.checkpoint import open_weights, some, weight_file

FOLDER = "safety_checker"  # in diffusers' layout of Stable Diffusion


class SafetyChecker(nn.Module):
    """pixel_values [B, 3, F, F] → nsfw_score [B, 1], above 0 for what diffusers' class calls NSFW.

    The score is the largest of (cosine of picture and concept) − (the concept's threshold) + adjustment, rounded to
    three decimals; the adjustment is 0.01 for a picture that comes near a special care concept and 0 for others
    (StableDiffusionSafetyChecker.forward in huggingface/diffusers, pipelines/stable_diffusion/safety_checker.py,
    which walks over rows and concepts in Python and says no more than yes or no).

    From the cosines on everything is FP32, the score too, in a network that is otherwise FP16: thresholds lie around
    0.2, where FP16 has steps of 0.0001.
    """

    def __init__(self, model: StableDiffusionSafetyChecker) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection
        self.concept_embeds = _unit(model.concept_embeds)
        self.special_care_embeds = _unit(model.special_care_embeds)
        # plain tensors: casting the module leaves them as they are
        self.thresholds = model.concept_embeds_weights.detach().clone()
        self.special_care_thresholds = model.special_care_embeds_weights.detach().clone()

    def forward(self, pixel_values: Tensor) -> Tensor:
        image_embeds = self.visual_projection(self.vision_model(pixel_values).pooler_output)
        direction = F.normalize(image_embeds.float())
        special_care = _round(F.linear(direction, self.special_care_embeds.float()) - self.special_care_thresholds)
        adjustment = 0.01 * (special_care.amax(dim=1, keepdim=True) > 0).float()
        scores = _round(F.linear(direction, self.concept_embeds.float()) - self.thresholds + adjustment)
        return scores.amax(dim=1, keepdim=True)


def safety_network(folder: Path) -> Network:
    """`safety_checker` of a Stable Diffusion folder, from its sub-folder of that name; weights as they are there.

    Raises InputError if there is none, or if it is not a whole StableDiffusionSafetyChecker.
    """
    checker = read_safety_checker(Path(folder) / FOLDER)
    checker.vision_model.set_attn_implementation("eager")  # fused kernels have no ONNX form
    size = checker.config.vision_config.image_size
    pictures = torch.randn(2, 3, size, size, generator=torch.Generator("cpu").manual_seed(0))
    return Network(SafetyChecker(checker), {"pixel_values": pictures}, "nsfw_score")


def read_safety_checker(folder: Path) -> StableDiffusionSafetyChecker:
    """FP32; weights in FP32 stay mapped to their file. Raises InputError naming the file, and the tensors that are
    missing, too many or of another shape."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no safety checker: expected diffusers' StableDiffusionSafetyChecker")
    file, weights = weight_file(folder), open_weights(folder)
    try:
        with init_empty_weights():
            checker = StableDiffusionSafetyChecker(CLIPConfig.from_pretrained(folder))
    except Exception as error:  # whatever the library makes of a strange configuration
        raise InputError(f"{folder / 'config.json'} describes no StableDiffusionSafetyChecker: {error}") from error
    # Stable Diffusion 1.5's file has a level more, and the buffer `position_ids`, which counts 0, 1, 2 …
    found = {name.replace("vision_model.vision_model.", "vision_model."): weight for name, weight in weights.items()}
    found.pop("vision_model.embeddings.position_ids", None)
    expected = checker.state_dict()
    shapes = {name: list(weight.tensor.shape) for name, weight in found.items()}
    faults = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "of another shape": [f"{n} {s}" for n, s in shapes.items() if n in expected and s != list(expected[n].shape)],
        "with NaN or infinity": [n for n, w in found.items() if not w.tensor.isfinite().all()],
    }
    if said := [f"{fault}: {some(sorted(names))}" for fault, names in faults.items() if names]:
        raise InputError(f"{file} is no StableDiffusionSafetyChecker; tensors {'; '.join(said)}")
    checker.load_state_dict({name: weight.tensor.float() for name, weight in found.items()}, assign=True)
    return checker.eval().requires_grad_(False)


def _unit(concepts: Tensor) -> nn.Parameter:
    return nn.Parameter(F.normalize(concepts.detach()), requires_grad=False)


def _round(scores: Tensor) -> Tensor:
    """To three decimals, half to even, as NumPy does it in FP32."""
    return (scores * 1000).round() / 1000
