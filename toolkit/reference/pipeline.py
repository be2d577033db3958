"""The paper's method: a prompt and reference images to a picture.

Notation (paper → here): z latents; i step index, t timestep; w guidance_scale; c_null, c_text,
c_aug the three conditionings; eps_T, eps_S the noise predictions of the scene model (TDM) and of
the subject model (SDM).

  encode                c_null, c_text = text encoder; c_aug = postfuse(c_text, image embeddings)
  for every step i
    scene construction    eps = eps_T(c_null) + w (eps_T(c_text) - eps_T(c_null))
    subject-scene fusion  eps = SNF of the guided eps_T above and the guided eps_S below
    subject enhancement   eps = eps_S(c_text) + w (eps_S(c_aug) - eps_S(c_text))
    z = scheduler(z, eps, t)
  decode                image = VAE decoder(z / scaling_factor)

The base row of the subject model is the text conditioning, not the null one; a negative prompt
replaces the empty one in c_null and so acts in scene construction and fusion only.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizerFast

from toolkit.reference.fusion import Fused, guide
from toolkit.reference.image import object_pixels, pixel_values, to_picture
from toolkit.reference.method import Conditioning, FaceDiffuser
from toolkit.reference.networks import Networks
from toolkit.reference.plan import SCENE_CONSTRUCTION, SUBJECT_ENHANCEMENT, make_plan
from toolkit.reference.prompt import encode, place_markers
from toolkit.reference.scheduler import DDIM, make_scheduler


@dataclass(frozen=True)
class Request:
    """What to draw; None takes the family's default. `subjects` are encoded images in the order
    of the prompt's markers. Stage bounds are indices of the loop's iterations."""

    prompt: str
    subjects: list[bytes] = field(default_factory=list)
    negative_prompt: str = ""
    seed: int = 0
    scheduler: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    start_merge_step: int | None = None
    final_step: int | None = None
    eta: float | None = None


@dataclass(frozen=True)
class Step:
    """One step of the loop: latents [4, h, w] before and after it, the raw predictions
    (tdm_base, tdm_cond, sdm_base, sdm_cond as far as the stage has them), the noise that the
    scheduler was given, and in fusion the mask and the difference of log-saliencies [h, w]."""

    stage: str
    timestep: int
    latents: Tensor
    predictions: dict[str, Tensor]
    noise: Tensor
    next_latents: Tensor
    mask: Tensor | None = None
    log_saliency_difference: Tensor | None = None


@dataclass(frozen=True)
class Result:
    picture: Image.Image
    image: Tensor  # of the decoder [3, H, W]
    latents: Tensor
    conditioning: Conditioning
    steps: list[Step]


class Pipeline:
    """A family's folder (pipeline.json, tokenizer/) and its networks."""

    def __init__(self, folder: Path, networks: Networks) -> None:
        self.family = json.loads((Path(folder) / "pipeline.json").read_text(encoding="utf-8"))
        self.tokenizer = CLIPTokenizerFast.from_pretrained(Path(folder) / "tokenizer")
        self.networks = networks

    def generate(
        self,
        request: Request,
        k: int = 0,
        forced: dict[int, dict[int, int]] | None = None,
        method: FaceDiffuser | None = None,
    ) -> Result:
        """Picture k of a request, by the paper's method or one of toolkit.reference.variants.

        `forced` maps steps to choices of the paper's fusion (see fuse)."""
        method = method or FaceDiffuser(forced or {})
        defaults = self.family["defaults"]
        w = defaults["guidance_scale"] if request.guidance_scale is None else request.guidance_scale
        name = request.scheduler or defaults["scheduler"]
        eta = (defaults["eta"] if name == DDIM else 0.0) if request.eta is None else request.eta
        if eta > 0 and name != DDIM:
            raise ValueError(f"eta is {eta}, but the scheduler {name} adds no noise")
        steps = request.num_inference_steps or defaults["num_inference_steps"]
        scheduler = make_scheduler(name, self.family["schedule"])
        scheduler.set_timesteps(steps)
        iterations = len(scheduler.timesteps)  # PNDM's are steps + 1
        bounds = (request.start_merge_step, request.final_step)
        plan = make_plan(steps, defaults, len(request.subjects), *bounds, iterations=iterations)
        generator = torch.Generator("cpu").manual_seed((request.seed + k) % 2**32)
        noise_options = {"eta": eta, "generator": generator} if name == DDIM else {}

        c = self.encode(request)
        z = torch.randn(self.networks.latent_shape, generator=generator)
        trace = []
        for i, t in enumerate(scheduler.timesteps):
            stage, tdm, sdm, fused = plan.stage(i), None, None, None
            if stage != SUBJECT_ENHANCEMENT:
                tdm = self.networks.unet("unet_tdm", z, float(t), c.null, c.text)
            if stage != SCENE_CONSTRUCTION:
                sdm = self.networks.unet("unet_sdm", z, float(t), *method.subject_rows(c, i, iterations))
            if stage == SCENE_CONSTRUCTION:
                noise = guide(*tdm, w)
            elif stage == SUBJECT_ENHANCEMENT:
                noise = guide(*sdm, w)
            else:
                fused = method.fuse(i, tdm, sdm, w)
                noise = fused.noise
            step = scheduler.step(noise[None], t, z[None], **noise_options)
            trace.append(_step(stage, int(t), z, tdm, sdm, noise, step.prev_sample[0], fused))
            z = step.prev_sample[0]
        image = self.networks.vae_decoder(z / self.family["scaling_factor"])
        return Result(to_picture(image), image, z, c, trace)

    def encode(self, request: Request) -> Conditioning:
        prompt = place_markers(request.prompt, len(request.subjects), self.family["person_nouns"])
        tokens = encode(self.tokenizer, prompt)
        negative = encode(self.tokenizer, request.negative_prompt)
        text = self.networks.text_encoder(torch.tensor(tokens.input_ids))
        null = self.networks.text_encoder(torch.tensor(negative.input_ids))
        if not request.subjects:
            return Conditioning(null, text, None)
        slots, count = self.networks.max_subjects, len(request.subjects)
        embeds = torch.zeros(slots, text.shape[-1])
        for slot, subject in enumerate(request.subjects):
            pixels = object_pixels(subject, self.family["object_resolution"])
            embeds[slot] = self.networks.image_encoder(pixel_values(pixels, self.networks.reference_size))
        positions = torch.tensor(tokens.positions + [-1] * (slots - count))
        return Conditioning(null, text, self.networks.subject_fuser(text, embeds, positions))


def _step(stage, timestep, latents, tdm, sdm, noise, next_latents, fused: Fused | None) -> Step:
    predictions = {}
    for name, rows in (("tdm", tdm), ("sdm", sdm)):
        if rows:
            predictions[f"{name}_base"], predictions[f"{name}_cond"] = rows
    extra = (fused.mask, fused.log_saliency_difference) if fused else (None, None)
    return Step(stage, timestep, latents, predictions, noise, next_latents, *extra)
