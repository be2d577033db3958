"""The stages on Stable Diffusion 1.5's classes and block types at tiny size, with a folder of real pictures."""

import json

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from toolkit.__main__ import main
from toolkit.convert.sources import read
from toolkit.models import load, write_tokenizer
from toolkit.models.tokenizer import VOCABULARY
from toolkit.train import record
from toolkit.train.checkpoints import compose
from toolkit.train.command import Plan, prepare
from toolkit.train.folder import PictureFolder
from toolkit.train.launch import new_accelerator
from toolkit.train.loop import Options, checkpoint_path, run_stage
from toolkit.train.noise import NoiseSchedule
from toolkit.train.start import begin

WIDTH, LENGTH, IMAGE, REFERENCE = 32, 40, 64, 32
CAPTIONS = ("a woman <|image|> in a park", "a man <|image|> and a dog <|image|> at home", "an empty street")


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """A random Stable Diffusion 1.5 of tiny widths, and a CLIP vision model, as their libraries write them."""
    folder = tmp_path_factory.mktemp("stable-diffusion")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=IMAGE // 8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        sample_size=IMAGE,
    )
    text = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, projection_dim=WIDTH, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=LENGTH, bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae, CLIPTextModel(text), write_tokenizer(folder / "merges"), unet, scheduler,
        safety_checker=None, feature_extractor=CLIPImageProcessor(), requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "sd")
    vision = CLIPVisionConfig(
        hidden_size=48, intermediate_size=64, projection_dim=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        image_size=REFERENCE, patch_size=16,
    )  # fmt: skip
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four pictures of different sizes: a bright subject (two in the second) on a dark scene."""
    folder = tmp_path_factory.mktemp("pictures")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for k, (width, height) in enumerate([(96, 64), (64, 80), (70, 70), (64, 64)]):
        caption = CAPTIONS[k % 3]
        image = rng.integers(0, 60, (height, width, 3), np.uint8)
        labels = np.zeros((height, width), np.uint8)
        for subject in range(caption.count("<|image|>")):
            labels[10:50, 4 + 30 * subject : 24 + 30 * subject] = subject + 1
        image[labels > 0] = 200 + labels[labels > 0, None]
        name = f"{k:04d}"
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        if labels.any():
            Image.fromarray(labels).save(folder / "masks" / f"{name}.png")
        lines.append({"file_name": f"images/{name}.png", "caption": caption})
    lines[3]["split"] = "validation"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def started(stable_diffusion, folder):
    begin(folder, stable_diffusion / "sd", stable_diffusion / "clip")
    return folder


def train(name, work_dir, pictures, precision="bf16", accumulation=1, plan=None, **settings):
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = new_accelerator(precision, accumulation)
    options = Options(work_dir)
    settings = {"steps": 2, "batch": 2, **settings}
    stage = prepare(name, Plan(options, settings=settings, data_dir=pictures, **(plan or {})), accelerator)
    stage.sample_steps = 2
    return run_stage(stage, options, accelerator)


def changed(before, after):
    """Every trained-or-not network of which a weight differs, and those of which all but a few do."""
    some, whole = set(), set()
    for name, network in before.networks().items():
        theirs = after.networks()[name].state_dict()
        moved = [not torch.equal(v, theirs[k]) for k, v in network.state_dict().items()]
        some |= {name} if any(moved) else set()
        whole |= {name} if np.mean(moved) > 0.9 else set()
    return some, whole


@pytest.mark.parametrize(
    ("stage", "plan", "settings", "trained"),
    [
        ("vae", {}, {}, {"vae"}),
        ("tdm", {"gradient_checkpointing": True}, {}, {"unet_tdm", "unet_sdm"}),
        ("tdm", {}, {"train_text_encoder": True}, {"unet_tdm", "text_encoder", "unet_sdm"}),
        ("sdm", {"cache_latents": True, "gradient_checkpointing": True}, {}, {"unet_sdm", "subject_fuser"}),
        ("sdm", {}, {"train_image_encoder": True}, {"unet_sdm", "subject_fuser", "image_encoder"}),
    ],
    ids=["vae", "tdm", "tdm-text-encoder", "sdm", "sdm-image-encoder"],
)
def test_a_stage_changes_its_networks_and_no_others(
    stable_diffusion, pictures, tmp_path, stage, plan, settings, trained
):
    work_dir = started(stable_diffusion, tmp_path)
    before = compose(work_dir)
    state = train(stage, work_dir, pictures, plan=plan, **settings)
    assert np.isfinite(state["losses"]).all() and state["record"]["precision"] == "bf16"
    assert changed(before, compose(work_dir)) == (trained, trained)
    assert (tmp_path / "latents").exists() == bool(plan.get("cache_latents"))
    # words of no caption: a real text encoder knows them
    assert compose(work_dir).text_encoder.get_input_embeddings().weight.abs().sum(dim=1).min() > 0


def test_the_decoder_sharpens_and_leaves_the_encoder(stable_diffusion, pictures, tmp_path):
    work_dir = started(stable_diffusion, tmp_path)
    before = compose(work_dir).vae.state_dict()
    train("decoder", work_dir, pictures)
    moved = {k for k, v in compose(work_dir).vae.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(name.startswith(("autoencoder.decoder.", "autoencoder.post_quant_conv.")) for name in moved)


def test_sizes_come_from_the_loaded_networks(stable_diffusion):
    family = read(stable_diffusion / "sd", stable_diffusion / "clip")
    sizes = family.preset
    assert (sizes.width, sizes.max_length, sizes.image_size, sizes.latent_size) == (WIDTH, LENGTH, IMAGE, IMAGE // 8)
    assert sizes.reference_size == REFERENCE and sizes.unet_channels == (32, 32, 64, 64)
    assert family.config["scaling_factor"] == 0.18215 and family.config["from"] == "sd"
    pixels = torch.rand(1, 3, IMAGE, IMAGE)
    plain = AutoencoderKL.from_pretrained(stable_diffusion / "sd" / "vae").eval()
    with torch.no_grad():
        latents = plain.encode(pixels).latent_dist.mode()
        assert torch.equal(family.vae.encode(pixels).mode(), latents)
        assert torch.equal(family.vae.decode(latents), plain.decode(latents).sample)


def test_cached_latents_and_checkpointing_give_the_same_training(stable_diffusion, pictures, tmp_path):
    plain = train("sdm", started(stable_diffusion, tmp_path / "a"), pictures, "no")
    plan = {"cache_latents": True, "gradient_checkpointing": True}
    lean = train("sdm", started(stable_diffusion, tmp_path / "b"), pictures, "no", plan=plan)
    # latents are kept in half precision
    assert np.allclose(plain["losses"], lean["losses"], rtol=1e-3)


def test_two_workers_train_as_one_that_accumulates(stable_diffusion, pictures, tmp_path):
    """Through the command line: two processes, each with half of every batch."""
    command = ["train", "sdm", "--data-dir", str(pictures), "--from", str(stable_diffusion / "sd"),
               "--image-encoder", str(stable_diffusion / "clip"), "--steps", "2", "--batch", "4",
               "--mixed-precision", "no", "--learning-rate", "1e-3"]  # fmt: skip
    assert main([*command, "--work-dir", str(tmp_path / "two"), "--workers", "2"]) == 0
    one = train("sdm", started(stable_diffusion, tmp_path / "one"), pictures, "no", 2, batch=4, learning_rate=1e-3)
    two = torch.load(checkpoint_path(tmp_path / "two", "sdm"))
    begun = compose(tmp_path / "one", until="sdm")
    start = {n: begun.networks()[n.split(".")[0]].get_parameter(n.split(".", 1)[1]) for n in one["names"]}
    def flat(values):
        return torch.cat([value.detach().flatten() for value in values])

    ours, theirs, begin_with = flat(one["weights"]), flat(two["weights"]), flat(start[name] for name in one["names"])
    # The order of sums differs, and Adam's first steps follow the sign of even the smallest gradient.
    assert float(((ours - theirs).abs() > 2e-6).float().mean()) < 0.01
    assert float(((ours - begin_with).abs() > 1e-5).float().mean()) > 0.5
    assert two["record"]["workers"] == 2
    assert two["record"]["peak_memory_mib"] > 500  # of both: PyTorch alone takes more than half of it
    assert load(tmp_path / "two" / "family").config["trained"][0]["stage"] == "sdm"
    assert record.read(tmp_path / "two" / "family" / "training" / "stages.jsonl")[0]["from"] == "sd"


def test_a_picture_loses_what_is_far_from_its_subjects(stable_diffusion, pictures):
    preset = read(stable_diffusion / "sd", stable_diffusion / "clip").preset
    folder = PictureFolder(pictures, "train", preset)
    assert folder.captions == list(CAPTIONS) and len(PictureFolder(pictures, "validation", preset).captions) == 1
    image, labels = folder.image(0), folder.labels(0)  # 96 x 64, its subject at the left
    assert image.shape == (IMAGE, IMAGE, 3) and labels.shape == (IMAGE, IMAGE)
    assert (labels == 1).sum() == 40 * 20 and image[labels == 1].min() > 150
    assert image[labels == 0].mean() < 60
    assert set(np.unique(folder.labels(1))) == {0, 1, 2} and not folder.labels(2).any()


def test_a_reference_is_the_subject_alone_or_a_picture_of_its_own(stable_diffusion, pictures, tmp_path):
    preset = read(stable_diffusion / "sd", stable_diffusion / "clip").preset
    for part in ("images", "masks", "metadata.jsonl"):
        (tmp_path / part).symlink_to(pictures / part)
    (tmp_path / "references").mkdir()
    Image.new("RGB", (20, 10), (9, 99, 199)).save(tmp_path / "references" / "0001-1.png")
    folder = PictureFolder(tmp_path, "train", preset)
    cut, given = folder.reference(1, 1), folder.reference(1, 0)
    # 20 x 40 pixels of subject 2 in the middle of a black square
    assert cut.shape == (REFERENCE, REFERENCE, 3) and np.all(cut[:, :7] == 0) and np.all(cut[:, 25:] == 0)
    assert np.all(cut[2:-2, 10:22] == 202)
    assert np.all(given[12:20] == (9, 99, 199)) and np.all(given[:6] == 0)


def test_labels_may_be_partly_known(stable_diffusion, pictures, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).symlink_to(pictures / part)
    known = [[{"hair": "long", "glasses": "none"}], [{"hair": "short"}, {"hair": None, "glasses": "round"}]]
    scenes = [{"place": "park"}, {"place": "home", "time": "night"}]
    lines = [
        {"file_name": f"images/000{k}.png", "caption": CAPTIONS[k], "subjects": subjects, "scene": scene}
        for k, (subjects, scene) in enumerate(zip(known, scenes, strict=True))
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    work_dir = started(stable_diffusion, tmp_path / "work")
    before = compose(work_dir)
    state = train("attributes", work_dir, tmp_path)
    assert changed(before, compose(work_dir))[0] == {"image_encoder"}
    assert state["record"]["measured"].keys() == {"glasses", "hair"} and np.isfinite(state["losses"]).all()
    state = train("captions", work_dir, tmp_path)
    assert changed(before, compose(work_dir))[0] == {"image_encoder", "text_encoder"}
    assert state["record"]["measured"].keys() == {"place", "time"} and np.isfinite(state["losses"]).all()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"file_name": "images/0000.png"}, "line 1: caption must be given"),
        ({"file_name": "images/none.png", "caption": "a park"}, "none.png is missing"),
        ({"file_name": "images/0002.png", "caption": "a man <|image|>"}, "masks/0002.png is missing"),
        ({"file_name": "images/0000.png", "caption": "a <|image|> b <|image|>" * 3}, "at most 4"),
        ({"file_name": "images/0000.png", "caption": "a man <|image|>", "subjects": [{}, {}]}, "2 subjects are"),
        ({"file_name": "images/0000.png", "caption": "a park", "scene": {"place": 7}}, "scene must be an object"),
        ("{", "line 1: "),
        ("[]", "line 1: expected a JSON object"),
    ],
)
def test_bad_metadata_names_file_line_and_fault(stable_diffusion, pictures, tmp_path, line, complaint):
    preset = read(stable_diffusion / "sd", stable_diffusion / "clip").preset
    for part in ("images", "masks"):
        (tmp_path / part).symlink_to(pictures / part)
    (tmp_path / "metadata.jsonl").write_text(line if isinstance(line, str) else json.dumps(line))
    with pytest.raises(ValueError, match="metadata.jsonl, line 1") as raised:
        PictureFolder(tmp_path, "train", preset)
    assert complaint in str(raised.value)


def test_what_cannot_work_is_said(stable_diffusion, pictures, tmp_path, capsys):
    with pytest.raises(ValueError, match="--image-encoder"):
        read(stable_diffusion / "sd")
    work_dir = started(stable_diffusion, tmp_path)
    with pytest.raises(ValueError, match="no attribute labels"):
        train("attributes", work_dir, pictures)
    with pytest.raises(ValueError, match="no labels of what they show"):
        train("captions", work_dir, pictures)
    with pytest.raises(ValueError, match="does not divide by 3"):
        train("sdm", work_dir, pictures, accumulation=3)
    assert main(["train", "vae", "--work-dir", str(tmp_path), "--text-only", "0.2"]) == 2
    assert "stage vae has no --text-only" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_of_any_kind_denoises(stable_diffusion, kind):
    scheduler = read(stable_diffusion / "sd", stable_diffusion / "clip").scheduler
    scheduler.register_to_config(prediction_type=kind)
    schedule = NoiseSchedule(scheduler)
    latents, noise, timestep = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([700])
    noisy = schedule.noisy(latents, noise, timestep)
    scheduler.set_timesteps(1000)
    found = scheduler.step(schedule.target(latents, noise, timestep), 700, noisy).pred_original_sample
    assert torch.allclose(found, latents, atol=1e-4)
    # at equal squared error of the picture itself, every kind weighs the same
    for floor, at, expected in ((0, 700, None), (1, 700, 1.0), (1, 10, 5.0)):
        snr = scheduler.alphas_cumprod[at] / (1 - scheduler.alphas_cumprod[at])
        scale = {"epsilon": snr, "v_prediction": snr + 1, "sample": 1}[kind]
        weight = NoiseSchedule(scheduler, floor=floor).weights(torch.tensor([at])) * scale
        assert weight.item() == pytest.approx(snr.item() if expected is None else expected, rel=1e-5)
