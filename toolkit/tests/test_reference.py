"""The reference against diffusers' own pipeline and the method's properties, on tiny real networks."""

import io
import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline
from PIL import Image

from toolkit.export.description import DEFAULTS, PERSON_NOUNS, SCHEDULE_KEYS
from toolkit.goldens import colour
from toolkit.models import TINY, new_family, write_tokenizer
from toolkit.models.family import new_scheduler
from toolkit.reference.fusion import fuse, guide
from toolkit.reference.image import object_pixels, pixel_values
from toolkit.reference.networks import TorchNetworks
from toolkit.reference.pipeline import Pipeline, Request
from toolkit.reference.plan import SCENE_CONSTRUCTION, SUBJECT_ENHANCEMENT, SUBJECT_SCENE_FUSION, Plan, make_plan
from toolkit.reference.prompt import LENGTH, PromptError, encode, place_markers
from toolkit.reference.scheduler import SCHEDULERS, make_scheduler
from toolkit.reference.variants import Average, DelayedSubject, FixedMask, RandomMask, boxes

PROMPT = "a woman <|image|> reading in the snow"
# Stable Diffusion 1.5's scheduler/scheduler_config.json
SD15 = PNDMScheduler.from_config(
    {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    }
)
# The schedulers as their users make them of that file.
THEIRS = {
    "ddim": DDIMScheduler.from_config(SD15.config),
    "pndm": SD15,
    "dpmpp_2m": DPMSolverMultistepScheduler.from_config(SD15.config),
}


def tiny_pipeline(folder):
    """A family's folder without exported networks, and the tiny networks themselves."""
    write_tokenizer(folder / "tokenizer")
    schedule = {key: new_scheduler().config[key] for key in SCHEDULE_KEYS}
    description = {
        "schedule": schedule,
        "scaling_factor": 0.18215,
        "object_resolution": 128,
        "defaults": DEFAULTS,
        "person_nouns": PERSON_NOUNS,
    }
    (folder / "pipeline.json").write_text(json.dumps(description))
    return Pipeline(folder, TorchNetworks(new_family(seed=5, preset=TINY)))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def face():
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("bounds", "unet", "base", "cond"),
    [((5, 5), "unet_tdm", "null", "text"), ((-1, -1), "unet_sdm", "text", "augmented")],
    ids=["scene construction", "subject enhancement"],
)
@pytest.mark.parametrize(
    ("scheduler", "eta"), [("ddim", 0.0), ("ddim", 0.7), ("pndm", 0.0), ("dpmpp_2m", 0.0)]
)
def test_plans_of_one_stage_are_stable_diffusion(pipeline, face, bounds, unet, base, cond, scheduler, eta):
    subjects = [] if unet == "unet_tdm" else [face]  # a plan with subjects must use their model
    prompt = PROMPT if subjects else "a woman reading in the snow"
    settings = {"seed": 11, "scheduler": scheduler, "num_inference_steps": 6, "guidance_scale": 4.0, "eta": eta}
    request = Request(prompt, subjects, "a city", **settings)
    if subjects:
        request = Request(**{**request.__dict__, "start_merge_step": bounds[0], "final_step": bounds[1]})
    ours = pipeline.generate(request)
    theirs = stable_diffusion(pipeline, unet, ours.conditioning, base, cond, THEIRS[scheduler], eta=eta)
    assert torch.allclose(ours.latents, theirs, atol=1e-5)
    assert len(ours.steps) == (7 if scheduler == "pndm" else 6)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_are_what_their_users_make_of_stable_diffusions(name):
    schedule = {key: new_scheduler().config[key] for key in SCHEDULE_KEYS}
    ours, theirs = make_scheduler(name, schedule), THEIRS[name]
    assert type(ours) is type(theirs)
    options = {key for key in ours.config.keys() & theirs.config.keys() if not key.startswith("_")}
    assert {"beta_start", "timestep_spacing", "prediction_type", "steps_offset"} <= options
    assert {key: ours.config[key] for key in options} == {key: theirs.config[key] for key in options}


def test_eta_is_ddims_alone(pipeline):
    with pytest.raises(ValueError, match="eta is 0.5, but the scheduler pndm adds no noise"):
        pipeline.generate(Request("a woman", scheduler="pndm", num_inference_steps=2, eta=0.5))
    with pytest.raises(ValueError, match="scheduler is 'plms', want one of ddim, pndm, dpmpp_2m"):
        pipeline.generate(Request("a woman", scheduler="plms", num_inference_steps=2))


def stable_diffusion(pipeline, unet, conditioning, base, cond, scheduler=THEIRS["ddim"], **options):
    """Latents [4, h, w] of diffusers' pipeline: 6 steps, guidance 4, seed 11."""
    family = pipeline.networks.family
    diffusion = StableDiffusionPipeline(
        vae=family.vae.autoencoder,
        text_encoder=family.text_encoder,
        tokenizer=family.tokenizer,
        unet=getattr(family, unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    diffusion.set_progress_bar_config(disable=True)
    size = TINY.latent_size * diffusion.vae_scale_factor
    return diffusion(
        prompt_embeds=getattr(conditioning, cond)[None],
        negative_prompt_embeds=getattr(conditioning, base)[None],
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(11),
        height=size,
        width=size,
        output_type="latent",
        **options,
    ).images[0]


@pytest.mark.parametrize(("alpha", "text_steps"), [(1.0, 0), (0.5, 3), (0.3, 4), (0.0, 6)])
def test_delayed_subject_conditioning_is_stable_diffusion_whose_prompt_changes(pipeline, face, alpha, text_steps):
    plan = {"num_inference_steps": 6, "guidance_scale": 4.0, "start_merge_step": -1, "final_step": -1}
    ours = pipeline.generate(Request(PROMPT, [face], seed=11, **plan), method=DelayedSubject(alpha=alpha))
    c = ours.conditioning

    def augment(_, step, timestep, tensors):
        return {"prompt_embeds": torch.stack([c.null, c.augmented])} if step + 1 == text_steps else {}

    first = "text" if text_steps else "augmented"
    theirs = stable_diffusion(
        pipeline, "unet_sdm", c, "null", first,
        callback_on_step_end=augment, callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )  # fmt: skip
    assert torch.allclose(ours.latents, theirs, atol=1e-5)


def test_alpha_is_a_share():
    with pytest.raises(ValueError, match="0 to 1, not 2"):
        DelayedSubject(alpha=2)


@pytest.fixture
def predictions():
    source = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 16, 16, generator=source), torch.randn(4, 16, 16, generator=source)) for _ in "ab"]


def test_the_average_lies_halfway(predictions):
    tdm, sdm = predictions
    noise = Average().fuse(0, tdm, sdm, 5.0).noise
    assert torch.allclose(noise - guide(*tdm, 5.0), guide(*sdm, 5.0) - noise, atol=1e-5)


@pytest.mark.parametrize("method", [FixedMask(subjects=2), RandomMask(seed=3)], ids=["fixed", "random"])
def test_masks_take_every_pixel_from_one_model_whole(predictions, method):
    tdm, sdm = predictions
    fused = method.fuse(4, tdm, sdm, 5.0)
    mask = fused.mask.bool()
    assert torch.equal(fused.noise[:, mask], guide(*sdm, 5.0)[:, mask])
    assert torch.equal(fused.noise[:, ~mask], guide(*tdm, 5.0)[:, ~mask])
    assert 0.3 < mask.float().mean() < 0.7


def test_fixed_masks_are_one_box_a_subject():
    rows = ["".join(map(str, row)) for row in boxes(2, 8, 16).tolist()]
    assert rows == ["0" * 16] * 2 + ["0111111001111110"] * 6
    assert boxes(1, 16, 16).sum() == 12 * 12


def test_random_masks_depend_on_seed_and_step_alone(predictions):
    def mask(seed, step):
        return RandomMask(seed=seed).fuse(step, *predictions, 5.0).mask

    assert torch.equal(mask(1, 2), mask(1, 2))
    different = [mask(1, 2), mask(1, 3), mask(2, 2), mask(2**32 - 1, 2)]
    for k, one in enumerate(different):
        for other in different[k + 1 :]:
            assert 0.3 < (one != other).float().mean() < 0.7


def test_variants_share_the_stages_around_the_fusion(pipeline, face):
    request = Request(PROMPT, [face], seed=1, num_inference_steps=6, start_merge_step=1, final_step=3)
    ours = pipeline.generate(request).steps
    for method in (Average(), FixedMask(subjects=1), RandomMask(seed=1)):
        steps = pipeline.generate(request, method=method).steps
        assert [s.stage for s in steps] == [s.stage for s in ours]
        assert torch.equal(steps[2].latents, ours[2].latents)  # the scene is the same
        assert torch.equal(steps[2].predictions["sdm_cond"], ours[2].predictions["sdm_cond"])
        assert not torch.equal(steps[3].latents, ours[3].latents)


def test_fusion_takes_every_pixel_from_one_model_whole():
    source = torch.Generator().manual_seed(0)
    tdm, sdm = ((torch.randn(4, 16, 16, generator=source), torch.randn(4, 16, 16, generator=source)) for _ in "ab")
    fused = fuse(tdm, sdm, 5.0)
    mask = fused.mask.bool()
    assert torch.equal(fused.noise[:, mask], guide(*sdm, 5.0)[:, mask])
    assert torch.equal(fused.noise[:, ~mask], guide(*tdm, 5.0)[:, ~mask])
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(mask, fused.log_saliency_difference > 0)
    pixel = int((~mask).flatten().nonzero()[0])
    forced = fuse(tdm, sdm, 5.0, {pixel: 1}).mask.flatten()
    assert forced[pixel] == 1 and int(forced.sum()) == int(mask.sum()) + 1


def test_fusion_of_equal_models_is_plain_guidance_and_the_scene_models():
    base, cond = torch.randn(4, 16, 16), torch.randn(4, 16, 16)
    fused = fuse((base, cond), (base, cond), 5.0)
    assert torch.equal(fused.noise, guide(base, cond, 5.0)) and not fused.mask.any()


def test_the_papers_stages_at_50_steps():
    plan = make_plan(50, DEFAULTS, subjects=1)
    assert (plan.start_merge_step, plan.final_step) == (15, 30)
    stages = (SCENE_CONSTRUCTION, SUBJECT_SCENE_FUSION, SUBJECT_ENHANCEMENT)
    assert [plan.count(stage) for stage in stages] == [16, 15, 19]
    assert make_plan(50, DEFAULTS, subjects=0).count(SCENE_CONSTRUCTION) == 50


def test_the_papers_stages_with_pndm_are_those_of_its_script():
    plan = make_plan(50, DEFAULTS, subjects=1, iterations=51)
    assert plan == Plan(51, 15, 30)
    assert make_plan(50, DEFAULTS, subjects=0, iterations=51) == Plan(51, 50, 50)
    assert make_plan(50, DEFAULTS, 1, final_step=50, iterations=51) == Plan(51, 15, 50)


@pytest.mark.parametrize(
    ("given", "bounds"),
    [((None, None), (3, 6)), ((8, None), (8, 8)), ((None, 1), (1, 1)), ((-1, None), (-1, 6)), ((0, 9), (0, 9))],
)
def test_an_explicit_bound_wins_and_the_other_yields(given, bounds):
    assert make_plan(10, DEFAULTS, 1, *given) == Plan(10, *bounds)


@pytest.mark.parametrize("given", [(-2, None), (None, 10), (5, 4), (9, None), (9, 9)])
def test_bounds_that_make_no_sense_are_refused(given):
    with pytest.raises(ValueError):
        make_plan(10, DEFAULTS, 1, *given)


def test_the_trace_shows_the_loop(pipeline, face):
    result = pipeline.generate(Request(PROMPT, [face], seed=1, num_inference_steps=10))
    assert [s.stage for s in result.steps] == [SCENE_CONSTRUCTION] * 4 + [SUBJECT_SCENE_FUSION] * 3 + [
        SUBJECT_ENHANCEMENT
    ] * 3
    for step, following in zip(result.steps, result.steps[1:], strict=False):
        assert torch.equal(step.next_latents, following.latents)
        assert (step.mask is None) == (step.stage != SUBJECT_SCENE_FUSION)
    assert result.picture.size == (TINY.image_size, TINY.image_size)
    augmented = (result.conditioning.augmented != result.conditioning.text).any(dim=1)
    assert augmented.nonzero().flatten().tolist() == [2]


def test_picture_k_has_the_next_seed_and_seeds_wrap(pipeline):
    def first(seed, k):
        request = Request("a woman", seed=seed, num_inference_steps=1)
        return pipeline.generate(request, k).steps[0].latents

    assert torch.equal(first(7, 2), first(9, 0)) and torch.equal(first(2**32 - 1, 1), first(0, 0))
    assert not torch.equal(first(7, 0), first(8, 0))


def test_ids_are_those_of_the_prompt_without_markers(pipeline):
    marked = encode(pipeline.tokenizer, "a woman <|image|> and a man <|image|>, in the snow")
    plain = pipeline.tokenizer("a woman and a man, in the snow", padding="max_length", max_length=LENGTH)
    assert marked.input_ids == plain["input_ids"] and marked.positions == [2, 5]
    long = " ".join(["cat"] * 100)
    cut = encode(pipeline.tokenizer, long)
    assert cut.input_ids == pipeline.tokenizer(long, truncation=True, max_length=LENGTH)["input_ids"]
    assert len(cut.cut_ids) == 25


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("<|image|> a woman", "no_word"),
        ("a woman, <|image|>", "no_word"),
        ("a wo<|image|>man", "inside_word"),
        ("a woman <|image|> <|image|>", "follows_marker"),
        ("cat " * 75 + "dog <|image|>", "beyond_cut"),
    ],
)
def test_misplaced_markers(pipeline, prompt, reason):
    with pytest.raises(PromptError) as error:
        encode(pipeline.tokenizer, prompt)
    assert error.value.reason == reason


def test_markers_are_placed_only_where_it_is_clear():
    assert place_markers("a woman and a man", 2, ["woman", "man"]) == "a woman <|image|> and a man <|image|>"
    assert place_markers("a woman img", 1, ["woman"]) == "a woman <|image|>"
    assert place_markers("an img of a Woman", 1, ["woman"]) == "an img of a Woman <|image|>"
    for prompt, images, reason in [
        ("a woman <|image|>", 2, "count"),
        ("a woman img", 2, "count"),
        ("a forest", 1, "placement"),
        ("img", 1, "placement"),
    ]:
        with pytest.raises(PromptError) as error:
            place_markers(prompt, images, ["woman"])
        assert error.value.reason == reason


def encoded(image, **options):
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def test_reference_images_are_turned_and_padded_with_black():
    upright = Image.fromarray(np.random.default_rng(1).integers(1, 256, (64, 33, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # was taken with the camera turned
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    pixels = np.array(object_pixels(turned, 64))
    assert np.array_equal(pixels, np.array(object_pixels(encoded(upright), 64)))
    assert np.array_equal(pixels[:, 15:48], np.array(upright))
    assert not pixels[:, :15].any() and not pixels[:, 48:].any()


def test_transparency_shows_the_paddings_black_and_16_bits_keep_the_high_byte():
    clear = Image.new("RGBA", (8, 8), (200, 100, 50, 0))
    assert not np.array(object_pixels(encoded(clear), 8)).any()
    deep = Image.fromarray(np.full((8, 8), 0x80FF, np.uint16))
    assert (np.array(object_pixels(encoded(deep), 8)) == 0x80).all()


def test_a_profile_that_cannot_be_applied_leaves_the_picture():
    for name, (with_profile, without, _) in colour.not_applied().items():
        assert np.array_equal(object_pixels(with_profile, 64), object_pixels(without, 64)), name


def test_pixel_values_are_clips():
    white = pixel_values(Image.new("RGB", (128, 128), "white"), 64)
    assert white.shape == (3, 64, 64)
    expected = (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    assert torch.allclose(white, expected.view(3, 1, 1).expand_as(white), atol=1e-5)
