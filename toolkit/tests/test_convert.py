"""Weights of every layout as a family, on real classes at tiny sizes.

Layouts are those of the libraries that wrote them: manifest_tiny.json holds what the authors' versions of diffusers and
transformers call their tensors at these sizes.
"""

import io
import json
import os
import re
import shutil
import struct
import subprocess
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from toolkit.__main__ import main
from toolkit.convert import command
from toolkit.convert.sources import read, read_authors
from toolkit.errors import InputError
from toolkit.export import onnx_file, verify
from toolkit.export.command import export
from toolkit.export.description import describe, fit_preview, weights_sha256
from toolkit.export.networks import networks
from toolkit.models import Family, PatchAutoencoder, Preset, SubjectFuser, load, save, write_tokenizer
from toolkit.models.checkpoint import open_weights
from toolkit.models.layout import BUILD, MANIFEST, manifest, manifest_tensors, new_network, shapes, todays_name
from toolkit.reference.networks import OnnxNetworks, TorchNetworks
from toolkit.reference.pipeline import Pipeline, Request
from toolkit.reference.plan import make_plan
from toolkit.tests.test_safety import new_checker
from toolkit.train.start import begin

TINY = Path(__file__).with_name("manifest_tiny.json")
SIZES = manifest(TINY)["sizes"]
WORDS = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def network(name, seed):
    """Random, with nothing at the zeros and ones that fresh biases and norms have."""
    torch.manual_seed(seed)
    module = {
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**SIZES["text_encoder"], **WORDS)),
        "image_encoder": lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES["image_encoder"])),
        "subject_fuser": lambda: SubjectFuser(SIZES["subject_fuser"]["width"]),
        "unet": lambda: UNet2DConditionModel(**SIZES["unet"]),
        "vae": lambda: AutoencoderKL(**SIZES["vae"]),
    }[name]()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        if name == "vae":  # faint pictures: FP16 loses more in random layers than `convert` lets pass in trained ones
            module.decoder.conv_out.weight.mul_(0.3)
    return module.eval().requires_grad_(False)


def authors_names(name, module):
    """The state dict as the authors' versions wrote it: what the manifest says, no name more or less."""
    state = dict(module.state_dict())
    if name == "vae":
        for today, old in ATTENTION.items():
            state = {re.sub(rf"(attentions\.0\.){today}\.", rf"\g<1>{old}.", key): value for key, value in state.items()}
    expected = manifest_tensors(name, TINY)
    for key in expected.keys() - state.keys():
        assert key.endswith("position_ids")
        state[key] = torch.arange(expected[key][1])[None]
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    return state


def state_dict(**parts):
    """Of the authors' module."""
    return {
        f"{part}.{key}": value
        for part, module in parts.items()
        for key, value in authors_names("subject_fuser" if part == "postfuse_module" else part, module).items()
    }


@pytest.fixture(scope="module")
def nets():
    names = ("text_encoder", "image_encoder", "subject_fuser", "vae", "unet")
    return {name: network(name, seed) for seed, name in enumerate(names)} | {"unet_sdm": network("unet", 9)}


@pytest.fixture(scope="module")
def folder(nets, tmp_path_factory):
    """sd: Stable Diffusion; clip: its image encoder; SDM, TDM: the authors' state dicts."""
    folder = tmp_path_factory.mktemp("weights")
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    StableDiffusionPipeline(
        nets["vae"], nets["text_encoder"], write_tokenizer(folder / "merges"), nets["unet"], scheduler,
        safety_checker=None, feature_extractor=CLIPImageProcessor(), requires_safety_checker=False,
    ).save_pretrained(folder / "sd")  # fmt: skip
    nets["image_encoder"].save_pretrained(folder / "clip")
    vae = network("vae", 3)
    vae.decoder.conv_out.bias.add_(0.25)  # training may have moved it
    sdm = state_dict(
        unet=nets["unet_sdm"], text_encoder=nets["text_encoder"], image_encoder=nets["image_encoder"],
        postfuse_module=nets["subject_fuser"], vae=vae,
    )  # fmt: skip
    tdm = state_dict(unet=nets["unet"], text_encoder=nets["text_encoder"], vae=nets["vae"])
    tdm |= {key: value.bfloat16() for key, value in tdm.items() if key.startswith("vae.")}  # frozen, as trained in bf16
    for name, state in (("SDM", sdm), ("TDM", tdm)):
        (folder / name).mkdir()
        torch.save(state, folder / name / "pytorch_model.bin")
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of `folder` to be damaged."""
    shutil.copytree(folder, tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def face():
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def equal(module, expected):
    ours, theirs = module.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == torch.float32 and torch.equal(value, theirs[name].float()), name


def test_the_manifest_and_todays_classes_name_the_same_tensors():
    for path in (MANIFEST, TINY):
        for name in BUILD:
            old = manifest_tensors(name, path)
            todays = new_network(name, manifest(path)["sizes"][name])
            expected = {key: tuple(value.shape) for key, value in todays.state_dict().items()}
            assert {today: shape for key, shape in old.items() if (today := todays_name(name, key))} == expected
            assert shapes(name, todays) == expected
    full = {name: manifest_tensors(name) for name in BUILD}
    assert sum(np.prod(shape) for shape in full["unet"].values()) == 859_520_964  # of Stable Diffusion 1.5
    assert manifest(MANIFEST)["versions"] | {"torch": ""} == {
        "transformers": "4.25.1", "diffusers": "0.16.1", "torch": ""
    }  # fmt: skip


def reference(nets, folder):
    """The reference pipeline with the networks that the files were written from."""
    sizes = Preset("tiny", width=32, image_size=128, reference_size=32, vae_patch=1, vae_channels=(32, 32, 32, 64))
    family = Family(
        **{name: deepcopy(nets[name]) for name in ("text_encoder", "image_encoder", "subject_fuser", "unet_sdm")},
        unet_tdm=deepcopy(nets["unet"]),
        vae=PatchAutoencoder(deepcopy(nets["vae"]), patch=1),
        tokenizer=None,  # the pipeline's own
        config={"preset": asdict(sizes)},
    )
    return Pipeline(folder, TorchNetworks(family))


def test_the_authors_state_dicts_become_a_family_that_draws_the_same_picture(nets, folder, face, tmp_path, capsys):
    out = tmp_path / "faces"
    (tmp_path / "face.png").write_bytes(face)  # to fit previews to
    given = ["--sdm", str(folder / "SDM"), "--tdm", str(folder / "TDM" / "pytorch_model.bin"), "--out", str(out)]
    given += ["--image-encoder", str(folder / "clip"), "--pictures", str(tmp_path)]
    assert main(["convert", str(folder / "sd"), *given]) == 0

    said = capsys.readouterr().out
    moved = r"vae in \S+SDM/pytorch_model.bin differs from that in \S+sd/vae in 1 of \d+ tensors, most in vae.decoder."
    assert re.search(rf"{moved}conv_out.bias, by 2.5e-01; the one in \S+sd/vae is used", said)
    assert re.search(r"vae in \S+TDM/pytorch_model.bin is that in \S+sd/vae rounded to bfloat16", said)
    description = json.loads((out / "pipeline.json").read_text())
    assert description["name"] == "faces" and "non-commercial academic use" in description["license"]
    assert description["defaults"] == {
        "scheduler": "pndm", "num_inference_steps": 50, "guidance_scale": 5.0, "start_merge_fraction": 0.3,
        "final_fraction": 0.6, "eta": 0.0,
    }  # fmt: skip
    assert description["object_resolution"] == 128 and description["scaling_factor"] == 0.18215
    assert description["schedule"]["steps_offset"] == 1 and not description["schedule"]["clip_sample"]
    card = (out / "WEIGHTS.md").read_text()
    assert "non-commercial academic use" in card and "differs from that in" in card and "| `unet_sdm` |" in card

    request = Request("a woman <|image|> in the snow", [face], seed=3, num_inference_steps=6, guidance_scale=3.0)
    expected = reference(nets, out).generate(request)
    drawn = Pipeline(out, OnnxNetworks(out / "models")).generate(request)
    assert len({step.stage for step in drawn.steps}) == 3
    assert torch.allclose(drawn.latents, expected.latents, rtol=1e-3, atol=1e-3)
    assert np.abs(np.int16(drawn.picture) - np.int16(expected.picture)).max() <= 1
    assert np.std(np.asarray(drawn.picture)) > 5  # a picture at all

    assert main(["convert", str(folder / "sd"), *given]) == 2
    assert "holds a family already" in capsys.readouterr().err


FILES = {"models": "fp32", "onnxruntime": "fp16"}
MODELS = ("text_encoder", "image_encoder", "subject_fuser", "unet_tdm", "unet_sdm", "vae_decoder", "safety_checker")


@pytest.fixture(scope="module")
def converted(folder, tmp_path_factory):
    """A family of Stable Diffusion with a safety checker, weights beside the graphs as large ones are, and what was
    printed."""
    place = tmp_path_factory.mktemp("converted")
    shutil.copytree(folder / "sd", place / "sd")
    new_checker().save_pretrained(place / "sd" / "safety_checker")
    Image.new("RGB", (32, 32)).save(place / "black.png")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(onnx_file, "EXTERNAL_FROM", 0)
        given = ["--image-encoder", str(folder / "clip"), "--pictures", str(place), "--out", str(place / "out")]
        assert main(["convert", str(place / "sd"), *given]) == 0
    return place / "out", said.getvalue()


def test_all_back_ends_get_their_files(converted):
    out, said = converted
    made = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    files = {f"{folder}/{model}/1/model.onnx{end}" for folder in FILES for model in MODELS for end in ("", ".data")}
    files |= {f"{folder}/{model}/config.pbtxt" for folder in (*FILES, "tensorrt") for model in MODELS}
    files |= {f"{folder}/SHA256SUMS" for folder in FILES}
    files |= {f"models/{model}/1/model.py" for model in MODELS}
    files |= {f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "tokenizer_config.json")}
    assert made == files | {"models/onnx_model.py", "profiles.json", "pipeline.json", "WEIGHTS.md"}
    for folder, precision in FILES.items():
        for model in MODELS:
            tensors = verify.tensors(verify.load(out / folder / model / "1" / "model.onnx"))
            kinds = {name: kind for name, (kind, _) in tensors.items() if kind != "INT64"}
            expected = {name: "FP32" if name in ("timestep", "nsfw_score") else precision.upper() for name in kinds}
            assert kinds == expected and kinds
    rows = [line.split("|")[1:-1] for line in said.splitlines() if line.startswith("| `")]
    assert [row[0].strip(" `") for row in rows] == list(MODELS)
    for name, _, _, fp32, _, fp16, largest in rows:
        if "safety_checker" in name:  # its score is rounded
            assert float(fp32) <= 1.1e-3 and float(fp16) <= 6e-3
        else:
            assert float(fp32) <= 1e-4 and 1e-6 < float(fp16) <= 5e-3
        assert re.fullmatch(r" [\d.e+]+, `\w+(\.\w+)*` ", largest) and float(largest.split(",")[0]) > 0.1
    assert "| all |" in said


def test_configurations_say_whose_weights_they_are_for(converted):
    out, _ = converted
    description = json.loads((out / "pipeline.json").read_text())
    assert description["safety_checker"] is True and description["weights_sha256"] == weights_sha256(out / "models")
    line = f'parameters {{ key: "weights_sha256", value: {{ string_value: "{description["weights_sha256"]}" }} }}\n'
    for folder in (*FILES, "tensorrt"):
        for model in MODELS:
            said = line in (out / folder / model / "config.pbtxt").read_text()
            assert said == (folder != "models" and model != "safety_checker"), (folder, model)
    profiles = json.loads((out / "profiles.json").read_text())["models"]
    assert set(profiles) == set(MODELS) and profiles["unet_sdm"]["opt"].startswith("sample:8x4x16x16,timestep:8,")
    program = Path(__file__).parents[2] / "bin" / "facediffuser"
    assert program.exists(), "build the gateway first: make build"
    command = [program, "serve", "--check-config", "--family", out]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_the_identity_of_weights_is_that_of_all_that_makes_pictures(converted, tmp_path):
    shutil.copytree(converted[0] / "models", tmp_path / "models", symlinks=True)
    before = weights_sha256(tmp_path / "models")
    for model, same in (("safety_checker", True), ("unet_sdm", False)):
        data = tmp_path / "models" / model / "1" / "model.onnx.data"
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
        assert (weights_sha256(tmp_path / "models") == before) == same


def test_training_begins_with_the_weights_and_not_with_graphs_of_two_precisions(converted):
    with pytest.raises(InputError, match=r"text_encoder/1/model.onnx does not say where its parameters lie"):
        read(converted[0])


def test_what_float16_cannot_hold_is_refused_by_name(folder, tmp_path, monkeypatch):
    out, pictures = tmp_path / "out", torch.rand(2, 3, 32, 32) * 2 - 1
    for precision in ("both", "stored16"):
        family = read(folder / "sd", folder / "clip")
        family.unet_tdm.conv_out.weight[0, 0, 0, 0] = -7e4
        with pytest.raises(InputError, match=r"unet_tdm: conv_out.weight holds 7e\+04, and float16, in which"):
            export(family, out, 0, pictures, precision=precision)
    family = read(folder / "sd", folder / "clip")
    family.vae.autoencoder.decoder.conv_in.weight.mul_(1e5)  # weights fit, what they make does not
    alone = {"vae_decoder": networks(family)["vae_decoder"]}
    monkeypatch.setattr("toolkit.export.command.networks", lambda _: alone)
    with pytest.raises(InputError, match=r"vae_decoder: the layer autoencoder.decoder.conv_in reaches \S+ in float16"):
        export(family, out, 0, pictures, precision="both")
    assert not (out / "pipeline.json").exists()


def test_every_tensor_of_the_state_dicts_is_in_the_family(nets, folder):
    family, notes = read_authors(folder / "sd", folder / "SDM", folder / "TDM", folder / "clip")
    assert len(notes) == 2  # of both autoencoders
    for name in ("text_encoder", "image_encoder", "subject_fuser", "unet_sdm"):
        equal(getattr(family, name), nets[name])
    equal(family.unet_tdm, nets["unet"])
    equal(family.vae.autoencoder, nets["vae"])


def test_a_text_encoder_that_only_the_tdm_has_is_reported(nets, folder, copy):
    path = copy / "TDM" / "pytorch_model.bin"
    state = torch.load(path)
    # on several GPUs accelerate kept the prefix of DistributedDataParallel
    state = {f"module.{k}": 2 * v if "text" in k and v.is_floating_point() else v for k, v in state.items()}
    torch.save(state, path)
    family, notes = read_authors(copy / "sd", copy / "SDM", copy / "TDM", copy / "clip")
    equal(family.text_encoder, nets["text_encoder"])
    assert any(re.match(r"the text_encoder in \S+TDM/\S+ differs from that in \S+SDM/pytorch_model.bin", n) for n in notes)


def test_stable_diffusion_draws_scenes_and_refuses_subjects(nets, folder, tmp_path):
    family = read(folder / "sd", folder / "clip")
    for name, original in (("text_encoder", "text_encoder"), ("image_encoder", "image_encoder"), ("unet_tdm", "unet")):
        equal(getattr(family, name), nets[original])
    equal(family.unet_sdm, nets["unet"])
    family.unet_sdm.conv_in.bias.data.add_(1)  # training one model leaves the other, and the files
    equal(family.unet_tdm, nets["unet"])
    equal(read(folder / "sd", folder / "clip").unet_sdm, nets["unet"])

    preview = fit_preview(family, torch.rand(2, 3, 32, 32) * 2 - 1)
    description = describe(family, tmp_path, preview, created=0)
    assert description["defaults"]["scheduler"] == "ddim" and "safety_checker" not in description
    assert description["license"] == "CreativeML Open RAIL-M"
    for bounds in (description["defaults"], *description["input_fidelity"].values()):
        make_plan(50, bounds, subjects=0)
        with pytest.raises(ValueError, match="leaves the subject model no step"):
            make_plan(50, bounds, subjects=1)


def legacy(folder, nets):
    """Rewrites folders as the authors' versions and older ones wrote them, as PyTorch files."""
    vae = authors_names("vae", nets["vae"])
    text = {f"text_model.{key}": value for key, value in authors_names("text_encoder", nets["text_encoder"]).items()}
    clip = CLIPModel(
        CLIPConfig(
            vision_config=SIZES["image_encoder"],
            text_config={"num_hidden_layers": 1, "hidden_size": 32, "vocab_size": 99, "intermediate_size": 32},
            projection_dim=32,
        )
    )
    clip.vision_model.load_state_dict(nets["image_encoder"].vision_model.state_dict())
    clip.visual_projection.load_state_dict(nets["image_encoder"].visual_projection.state_dict())
    clip.save_pretrained(folder / "clip")
    whole = load_file(folder / "clip" / "model.safetensors")
    whole["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    for place, name, state in (
        ("sd/vae", "diffusion_pytorch_model", vae),
        ("sd/text_encoder", "pytorch_model", text),
        ("clip", "pytorch_model", whole),
    ):
        for file in (folder / place).glob("*.safetensors"):
            file.unlink()
        torch.save(state, folder / place / f"{name}.bin")


def test_names_of_older_libraries_are_todays(nets, copy):
    legacy(copy, nets)
    scheduler = copy / "sd" / "scheduler" / "scheduler_config.json"  # of somebody who samples otherwise
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"timestep_spacing": "linspace"}))
    family = read(copy / "sd", copy / "clip")
    assert family.scheduler.config.timestep_spacing == "leading"
    for name in ("text_encoder", "image_encoder"):
        equal(getattr(family, name), nets[name])
    equal(family.vae.autoencoder, nets["vae"])
    # the libraries themselves read the same files so
    equal(AutoencoderKL.from_pretrained(copy / "sd" / "vae", use_safetensors=False), nets["vae"])
    equal(CLIPTextModel.from_pretrained(copy / "sd" / "text_encoder"), nets["text_encoder"])

    def as_convolutions(state):
        projections = {k: v[:, :, None, None] for k, v in state.items() if "attentions" in k and v.ndim == 2}
        assert len(projections) == 8
        state.update(projections)

    change(copy / "sd" / "vae" / "diffusion_pytorch_model.bin", as_convolutions)
    equal(read(copy / "sd", copy / "clip").vae.autoencoder, nets["vae"])


def test_shards_and_half_precision_are_read(nets, copy):
    shutil.rmtree(copy / "sd" / "unet")
    nets["unet"].save_pretrained(copy / "sd" / "unet", max_shard_size="1MB")
    assert len(list((copy / "sd" / "unet").glob("*-of-*.safetensors"))) > 1
    half = deepcopy(nets["vae"]).half()
    (copy / "sd" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    half.save_pretrained(copy / "sd" / "vae", variant="fp16")
    state = torch.load(copy / "SDM" / "pytorch_model.bin")
    (copy / "SDM" / "pytorch_model.bin").unlink()
    names = sorted(state)
    places = {name: f"pytorch_model-0000{1 + k % 2}-of-00002.bin" for k, name in enumerate(names)}
    for file in set(places.values()):
        torch.save({name: state[name] for name in names if places[name] == file}, copy / "SDM" / file)
    (copy / "SDM" / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))

    family, notes = read_authors(copy / "sd", copy / "SDM", copy / "TDM", copy / "clip")
    equal(family.unet_sdm, nets["unet_sdm"])
    equal(family.subject_fuser, nets["subject_fuser"])
    equal(family.vae.autoencoder, half)
    equal(read(copy / "sd", copy / "clip").unet_tdm, nets["unet"])
    (copy / "SDM" / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(InputError, match=r"SDM/pytorch_model.bin.index.json names the shard pytorch_model-00002-of-00002"):
        read_authors(copy / "sd", copy / "SDM", copy / "TDM", copy / "clip")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_file_that_would_run_code_is_refused_by_its_global(copy, tmp_path):
    path = copy / "TDM" / "pytorch_model.bin"
    torch.save(torch.load(path) | {"unet.conv_in.weight": Malicious(tmp_path / "ran")}, path)
    with pytest.raises(InputError, match=r"TDM/pytorch_model.bin needs posix.system to be loaded"):
        read_authors(copy / "sd", copy / "SDM", copy / "TDM", copy / "clip")
    assert not (tmp_path / "ran").exists()
    torch.save({"state_dict": {}, "step": 3}, path)
    with pytest.raises(InputError, match=r"TDM/pytorch_model.bin holds state_dict \(dict\), step \(int\): expected"):
        open_weights(path)


def change(path, edit):
    """Rewrites a weight file."""
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    state = {name: value.clone() for name, value in state.items()}
    edit(state)
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def flip(path, name):
    """One bit of a tensor's bytes in the file."""
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    content, wanted = bytearray(path.read_bytes()), state[name].numpy().tobytes()
    content[content.index(wanted) + len(wanted) // 2] ^= 1
    path.write_bytes(content)


UNET, TDM_FILE = "sd/unet/diffusion_pytorch_model.safetensors", "TDM/pytorch_model.bin"
DECODER = "vae.decoder.mid_block.attentions.0"
CROSS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("file", "damage", "complaint"),
    [
        (UNET, lambda p: cut(p, 0.5), r"is cut: \w+\.[\w.]+ lies behind its end at [\d,]+ bytes"),
        (UNET, lambda p: cut(p, 0.001), r"is damaged: "),
        (UNET, lambda p: p.write_bytes(b"<html>not found</html>"), r"is damaged: "),
        (UNET, lambda p: p.unlink(), r"sd/unet holds no weights: expected .*, found config.json$"),
        (UNET, lambda p: change(p, lambda s: s["mid_block.resnets.1.conv1.weight"].view(-1)[7:8].fill_(torch.nan)),
         r"NaN or infinity in mid_block.resnets.1.conv1.weight"),
        (UNET, lambda p: change(p, lambda s: s.pop("conv_in.bias")), r"missing: conv_in.bias"),
        (UNET, lambda p: change(p, lambda s: s.update({"time_embedding.cond_proj.weight": torch.zeros(2)})),
         r"unexpected: time_embedding.cond_proj.weight"),
        (UNET, lambda p: change(p, lambda s: s.update({"conv_in.bias": torch.zeros(31)})),
         r"of another shape: conv_in.bias \(31 instead of 32\)"),
        (UNET, lambda p: change(p, lambda s: s.update({"conv_in.bias": torch.zeros(32, dtype=torch.int64)})),
         r"no floating-point numbers: conv_in.bias"),
        (UNET, lambda p: change(p, lambda s: s.update({CROSS: torch.zeros(32, 1024)})),
         rf"{CROSS} \(32x1024 instead of 32x32\). This is Stable Diffusion 2.x: {CROSS} reads a prompt 1024 wide"),
        (UNET, lambda p: change(p, lambda s: s.update({CROSS: torch.zeros(32, 2048)})), r"This is Stable Diffusion XL"),
        (TDM_FILE, lambda p: cut(p, 0.5), r"is cut or damaged: the table of its tensors"),
        (TDM_FILE, lambda p: flip(p, "unet.conv_in.weight"), r"is damaged: unet.conv_in.weight does not have its checksum"),
        (TDM_FILE, lambda p: p.write_bytes(b"\x80\x02}q\x00."), r"is no file of torch.save"),
        (TDM_FILE, lambda p: change(p, lambda s: s.pop("unet.conv_out.weight")), r"missing: conv_out.weight"),
        (TDM_FILE, lambda p: change(p, lambda s: s.update({"lora.down": torch.zeros(1)})), r"unexpected lora.down"),
        (TDM_FILE, lambda p: change(p, lambda s: s.update({f"{DECODER}.to_q.bias": torch.zeros(64)})),
         rf"holds {DECODER}.query.bias and {DECODER}.to_q.bias, two names"),
        (TDM_FILE, lambda p: torch.save({"model.diffusion_model.out.2.bias": torch.zeros(4)}, p),
         r"is no TDM .* This is a checkpoint in CompVis' layout"),
        (TDM_FILE, lambda p: shutil.copy(p.parents[1] / "SDM" / p.name, p), r"is no TDM .*Are --sdm and --tdm swapped\?"),
    ],
)  # fmt: skip
def test_damaged_and_foreign_files_are_refused_by_file_and_tensor(copy, file, damage, complaint):
    damage(copy / file)
    with pytest.raises(InputError, match=complaint) as raised:
        if file == TDM_FILE:
            read_authors(copy / "sd", copy / "SDM", copy / "TDM", copy / "clip")
        else:
            read(copy / "sd", copy / "clip")
    assert file in str(raised.value) or "holds no weights" in str(raised.value)


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_no_damage_is_told_by_a_traceback(tmp_path, ending):
    whole, path = tmp_path / f"whole.{ending}", tmp_path / f"damaged.{ending}"
    tensors = {f"layer.{k}.weight": torch.randn(4, 8) for k in range(4)}
    (torch.save if ending == "bin" else save_file)(tensors, whole)
    content, refused = whole.read_bytes(), 0
    for position in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        for damaged in (flipped, content[:position]):
            path.write_bytes(damaged)
            try:
                open_weights(path)  # bits that nothing depends on may have changed
            except InputError:
                refused += 1
    assert refused > len(content) / 3  # every cut, and some of the rest


def test_a_folder_of_stable_diffusion_2_is_named(copy):
    """Its configuration fits its weights."""
    with torch.device("meta"):
        other = UNet2DConditionModel(**SIZES["unet"] | {"cross_attention_dim": 1024, "use_linear_projection": True})
    shutil.rmtree(copy / "sd" / "unet")
    other.to_empty(device="cpu").save_pretrained(copy / "sd" / "unet")
    with pytest.raises(InputError, match=r"proj_in.weight \(32x32 instead of 32x32x1x1\).* This is Stable Diffusion 2.x"):
        read(copy / "sd", copy / "clip")


@pytest.mark.parametrize(
    ("place", "config", "complaint"),
    [
        ("sd/vae", {"_class_name": "AutoencoderTiny"}, "vae/config.json describes a AutoencoderTiny: expected a Auto"),
        ("clip", {"model_type": "siglip"}, "clip/config.json describes a siglip: expected a clip_vision_model"),
        ("sd/unet", {"block_out_channels": 7}, "unet/config.json describes no UNet2DConditionModel"),
        ("sd/text_encoder", {"hidden_size": 64}, r"text_encoder/model.safetensors .*_embedding.weight \(77x32 instead"),
    ],
)
def test_other_architectures_are_named(copy, place, config, complaint):
    path = copy / place / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(InputError, match=complaint):
        read(copy / "sd", copy / "clip")


def test_what_training_wrote_is_checked_too(nets, folder, tmp_path):
    family, _ = read_authors(folder / "sd", folder / "SDM", folder / "TDM", folder / "clip")
    save(family, tmp_path / "family")
    back = read(tmp_path / "family")
    equal(back.unet_sdm, nets["unet_sdm"])
    equal(back.subject_fuser, nets["subject_fuser"])
    assert "non-commercial" in back.config["license"]
    path = tmp_path / "family" / "subject_fuser" / "model.safetensors"
    change(path, lambda s: s.pop("mlp1.fc1.bias"))
    with pytest.raises(InputError, match="subject_fuser/model.safetensors is no subject_fuser .*missing: mlp1.fc1.bias"):
        load(tmp_path / "family")


def work_directory(folder, work_dir, stage, **weights):
    """A work directory that began with Stable Diffusion and whose stage has got as far as these weights."""
    begin(work_dir, folder / "sd", folder / "clip")
    (work_dir / "checkpoints").mkdir()
    record = {"stage": stage, "steps": 1, "batch": 1, "minutes": 1.0, "peak_memory_mib": None, "measured": {}}
    names = list(weights)
    torch.save(
        {"names": names, "ema": {"shadow_params": [weights[name] for name in names]}, "setup": {"built_on": {}},
         "config": {}, "record": record},
        work_dir / "checkpoints" / f"{stage}.pt",
    )  # fmt: skip
    return work_dir


def arguments(*words):
    parser = command.argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_a_work_directory_is_converted_as_it_stands(nets, folder, tmp_path):
    bias = {"unet_sdm.conv_in.bias": torch.full((32,), 0.5)}
    trained = work_directory(folder, tmp_path / "sdm", "sdm", **bias)
    source = command.read_source(arguments(trained, "--out", tmp_path / "out"))
    assert torch.equal(source.family.unet_sdm.conv_in.bias, bias["unet_sdm.conv_in.bias"])
    equal(source.family.unet_tdm, nets["unet"])
    assert source.family.config["license"] == "CreativeML Open RAIL-M" and "random_fuser" not in source.family.config

    scenes = work_directory(folder, tmp_path / "tdm", "tdm", **{"unet_tdm.conv_in.bias": torch.full((32,), 0.5)})
    assert command.read_source(arguments(scenes, "--out", tmp_path / "out")).family.config["random_fuser"]
    checkpoint = scenes / "checkpoints" / "tdm.pt"
    content = bytearray(checkpoint.read_bytes())
    content[content.index(struct.pack("<f", 0.5) * 32)] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoints/tdm.pt is damaged: tdm/data/0 does not have its checksum"):
        command.read_source(arguments(scenes, "--out", tmp_path / "out"))


def test_random_networks_are_not_served(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="began with random weights and has not trained tdm, vae yet"):
        command.read_source(arguments(tmp_path, "--out", tmp_path / "out"))


def test_what_cannot_be_converted_is_said_before_anything_is_written(folder, tmp_path, capsys, monkeypatch):
    def refused(*words):
        assert main(["convert", *(str(word) for word in words), "--out", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    sd, clip = folder / "sd", ("--image-encoder", folder / "clip")
    assert "--sdm and --tdm belong together" in refused(sd, "--sdm", folder / "SDM")
    assert "--image-encoder" in refused(sd)
    assert "is no Stable Diffusion folder" in refused(folder, "--sdm", folder / "SDM", "--tdm", folder / "TDM")
    assert "holds no weights" in refused(folder)
    assert "holds no JPEG" in refused(sd, *clip, "--pictures", folder)
    # without its configuration the image encoder is taken for the authors' own
    assert re.search(r"SDM/pytorch_model.bin is no image_encoder .*\(48 instead of 1024\)",
                     refused(sd, "--sdm", folder / "SDM", "--tdm", folder / "TDM"))  # fmt: skip
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 2**20))
    assert re.search(r"out needs 0.0\d GiB, \S+ has 0.00 GiB free", refused(sd, *clip))


def test_a_part_of_a_family_never_looks_complete(folder, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("toolkit.export.command.networks", lambda family: {})
    monkeypatch.setattr("toolkit.export.command.write_description", fail)  # after all models
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    out, given = tmp_path / "out", ["--image-encoder", str(folder / "clip"), "--pictures", str(tmp_path)]
    for _ in "ab":  # what is left over is no obstacle
        with pytest.raises(KeyboardInterrupt):
            main(["convert", str(folder / "sd"), *given, "--out", str(out)])
        assert (out / "WEIGHTS.md").exists() and not (out / "pipeline.json").exists()
    assert "refuses requests with reference images" in (out / "WEIGHTS.md").read_text()
    (out / "pipeline.json").write_text("{}")  # of an earlier export to the same folder
    with pytest.raises(KeyboardInterrupt):
        export(read(folder / "sd", folder / "clip"), out, created=0, pictures=torch.rand(2, 3, 32, 32) * 2 - 1)
    assert not (out / "pipeline.json").exists()


def test_previews_are_fitted_to_squares_of_the_given_pictures(tmp_path):
    Image.new("RGB", (90, 40), (255, 0, 127)).save(tmp_path / "a.png")
    Image.new("L", (10, 10), 0).save(tmp_path / "b.jpg")
    pictures = command.read_pictures(tmp_path, 16)
    assert pictures.shape == (2, 3, 16, 16)
    assert torch.allclose(pictures[0].mean(dim=(1, 2)), torch.tensor([1.0, -1.0, 127 / 127.5 - 1]))
    assert (pictures[1] == -1).all()
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="c.png cannot be read"):
        command.read_pictures(tmp_path, 16)
