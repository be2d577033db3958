"""Every stage at tiny size on the generated world: it runs, resumes to the same weights, trains what it says."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from toolkit.data import store as data_sets
from toolkit.export.command import export
from toolkit.models import TINY, load, save
from toolkit.train import record
from toolkit.train.checkpoints import compose
from toolkit.train.command import Plan, generated, prepare
from toolkit.train.launch import new_accelerator
from toolkit.train.loop import Options, checkpoint_path, run_stage
from toolkit.train.prompts import encode_prompts, meet_words
from toolkit.train.stage import Stage
from toolkit.train.stages import STAGES
from toolkit.train.start import begin

SETS = tuple(replace(spec, count=32 if spec.split == "train" else 18) for spec in data_sets.SETS)
STEPS = 3


def train(name, folder, preset=TINY, cut_before=None, **options):
    """Runs a stage; cut_before: the step whose loss is interrupted."""
    settings = {"steps": STEPS, "batch": 4, **options.pop("settings", {})}
    options = Options(folder, checkpoint_seconds=0, **options)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = new_accelerator("bf16")
    stage = prepare(name, Plan(options, preset, settings, sets=SETS), accelerator)
    if cut_before is not None:
        forward, calls = stage.forward, []

        def interrupted(batch, draw):
            if len(calls) == cut_before:
                raise InterruptedError
            calls.append(1)
            return forward(batch, draw)

        stage.forward = interrupted
    return run_stage(stage, options, accelerator)


def changed(before, after):
    """Names of the networks of which any weight differs."""
    theirs = after.networks()
    return {
        name
        for name, network in before.networks().items()
        if any(not torch.equal(v, theirs[name].state_dict()[k]) for k, v in network.state_dict().items())
    }


def assert_same(a, b):
    assert a["step"] == b["step"] and a["losses"] == b["losses"] and a["names"] == b["names"]
    for kind in (lambda s: s["weights"], lambda s: s["ema"]["shadow_params"]):
        for name, x, y in zip(a["names"], kind(a), kind(b), strict=True):
            assert torch.equal(x, y), name


@pytest.fixture(scope="module", autouse=True)
def small():
    threads, steps = torch.get_num_threads(), Stage.sample_steps
    torch.set_num_threads(1)
    Stage.sample_steps = 2
    yield
    torch.set_num_threads(threads)
    Stage.sample_steps = steps


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory, small):
    """A work directory in which each stage has run three steps, cut once before the last."""
    folder = tmp_path_factory.mktemp("work")
    for stage in STAGES:
        with pytest.raises(InterruptedError):
            train(stage, folder, cut_before=2)
        assert torch.load(checkpoint_path(folder, stage))["step"] == 2
        train(stage, folder)
    return folder


@pytest.fixture(scope="module")
def exported(work_dir, tmp_path_factory):
    """The family of the work directory, exported."""
    out = tmp_path_factory.mktemp("exported")
    export(compose(work_dir, TINY), out, created=0)
    return out


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_stage_reaches_the_same_weights(stage, work_dir, tmp_path):
    for earlier in ("data", "latents"):
        if (work_dir / earlier).exists():
            (tmp_path / earlier).symlink_to(work_dir / earlier)
    (tmp_path / "checkpoints").mkdir()
    for earlier in STAGES[: STAGES.index(stage)]:
        checkpoint_path(tmp_path, earlier).symlink_to(checkpoint_path(work_dir, earlier))
    whole = train(stage, tmp_path)
    assert whole["step"] == STEPS
    assert_same(whole, torch.load(checkpoint_path(work_dir, stage)))
    for picture in [*(tmp_path / "samples" / stage).glob("*.png"), tmp_path / "samples" / f"{stage}-loss.png"]:
        assert Image.open(picture).width > 50


def test_stages_train_their_networks_and_no_others(work_dir):
    trains = {
        "vae": {"vae"},
        "attributes": {"image_encoder"},
        "captions": {"text_encoder"},
        "tdm": {"unet_tdm", "unet_sdm"},  # the SDM starts as a copy
        "sdm": {"unet_sdm", "subject_fuser"},
        "decoder": {"vae"},
    }
    for stage, later in zip(STAGES, [*STAGES[1:], None], strict=True):
        before, after = compose(work_dir, TINY, until=stage), compose(work_dir, TINY, until=later)
        assert changed(before, after) == trains[stage], stage


def test_the_last_stage_leaves_latents_alone(work_dir):
    before, after = compose(work_dir, TINY, until="decoder"), compose(work_dir, TINY)
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        assert torch.equal(before.vae.encode(pixels).mode(), after.vae.encode(pixels).mode())
        assert not torch.equal(before.vae.decode(torch.ones(1, 4, 16, 16)), after.vae.decode(torch.ones(1, 4, 16, 16)))
    assert before.config["scaling_factor"] == after.config["scaling_factor"]


def test_latents_have_unit_variance_by_the_measured_scaling_factor(work_dir):
    AcceleratorState._reset_state(reset_partial_state=True)
    plan = Plan(Options(work_dir), TINY, sets=SETS)
    stage = prepare("tdm", plan, new_accelerator("bf16"))
    assert stage.data.latents.shape == (32, 4, 16, 16)
    assert abs(stage.data.latents.astype("float32").std() - 1) < 0.1  # measured on other pictures


def test_a_new_autoencoder_makes_new_latents(work_dir, tmp_path):
    (tmp_path / "data").symlink_to(work_dir / "data")
    shutil.copytree(work_dir / "latents", tmp_path / "latents")
    path = tmp_path / "latents" / "scenes-train.npy"
    before = path.read_bytes()
    train("tdm", tmp_path, settings={"steps": 1})  # no checkpoint of a vae: a random one
    assert path.read_bytes() != before


def test_words_of_no_caption_say_nothing(work_dir):
    family = compose(work_dir, TINY)
    table = family.text_encoder.get_input_embeddings().weight
    used = family.tokenizer("a woman", add_special_tokens=False)["input_ids"]
    unused = family.tokenizer("quasar", add_special_tokens=False)["input_ids"]
    assert table[used].abs().sum(dim=1).min() > 0
    assert table[unused].abs().max() == 0


def test_the_log_says_what_every_stage_cost(work_dir):
    lines = record.read(work_dir / "stages.jsonl")
    assert [line["stage"] for line in lines] == list(STAGES)
    for line in lines:
        assert line["steps"] == STEPS and line["batch"] == 4 and line["from"] is None
        assert line["minutes"] > 0 and line["peak_memory_mib"] > 100
    assert set(lines[0]["measured"]) == {"error", "error_on_people"}
    assert lines[1]["measured"].keys() >= {"hair", "skin", "glasses"}
    assert record.summary(lines).startswith(f"{len(STAGES)} stages, ")


def test_a_finished_stage_is_not_trained_again(work_dir):
    before = checkpoint_path(work_dir, "decoder").read_bytes()
    train("decoder", work_dir)
    assert checkpoint_path(work_dir, "decoder").read_bytes() == before
    assert len(record.read(work_dir / "stages.jsonl")) == len(STAGES)


def test_a_training_goes_on_as_it_began_or_not_at_all(work_dir):
    for other in ({"seed": 1}, {"settings": {"batch": 8}}, {"settings": {"learning_rate": 1e-5}}):
        with pytest.raises(ValueError, match="decoder.pt began with .* not .*: give the options of its first run"):
            train("decoder", work_dir, **other)


def test_a_stage_that_was_trained_on_older_weights_is_named(work_dir, tmp_path, capsys):
    shutil.copytree(work_dir / "checkpoints", tmp_path / "checkpoints")
    compose(tmp_path, TINY)
    assert not capsys.readouterr().err
    path = checkpoint_path(tmp_path, "tdm")
    newer = torch.load(path)
    newer["record"]["steps"] = 99
    torch.save(newer, path)
    compose(tmp_path, TINY)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "sdm.pt was trained on tdm after 3 steps, which now has 99: delete it" in said[0]


def test_the_subject_stage_can_train_the_image_encoder_too(work_dir, tmp_path):
    for earlier in ("data", "latents"):
        (tmp_path / earlier).symlink_to(work_dir / earlier)
    (tmp_path / "checkpoints").mkdir()
    for earlier in ("vae", "attributes", "tdm"):
        checkpoint_path(tmp_path, earlier).symlink_to(checkpoint_path(work_dir, earlier))
    before = compose(tmp_path, TINY)
    train("sdm", tmp_path, settings={"train_image_encoder": True, "steps": 1, "text_only": 0.0, "null": 0.0})
    assert changed(before, compose(tmp_path, TINY)) == {"unet_sdm", "subject_fuser", "image_encoder"}


def test_data_of_another_seed_is_trained_on_as_it_lies_there(tmp_path):
    spec = replace(SETS[0], count=8, seed=5)
    drawn = data_sets.build(tmp_path / "data" / spec.name, spec)
    opened = generated(Plan(Options(tmp_path), TINY, sets=SETS), "scenes", "train")
    assert len(opened) == 8 and opened.samples == drawn.samples


def test_the_family_of_a_work_directory_can_be_saved_at_any_time(work_dir, tmp_path):
    save(compose(work_dir, TINY), tmp_path / "family")
    assert [t["stage"] for t in load(tmp_path / "family").config["trained"]] == list(STAGES)


def test_training_goes_on_from_exported_weights(work_dir, exported, tmp_path):
    begin(tmp_path, exported)
    before, family = compose(tmp_path), compose(work_dir, TINY)
    assert before.preset == TINY and "random_encoder" not in before.config
    assert before.config["scaling_factor"] == family.config["scaling_factor"]
    for name, network in family.networks().items():
        for key, value in network.state_dict().items():
            if key.startswith(("autoencoder.encoder.", "autoencoder.quant_conv.")):
                value = value.half().float()
            assert torch.allclose(value, before.networks()[name].state_dict()[key], atol=1e-3), f"{name}.{key}"
    (tmp_path / "data").symlink_to(work_dir / "data")
    train("tdm", tmp_path, settings={"steps": 1})
    # the subject model has weights of its own by now and keeps them
    assert changed(before, compose(tmp_path)) == {"unet_tdm"}
    log = compose(tmp_path).config["trained"]
    assert [entry["stage"] for entry in log] == [*STAGES, "tdm"]
    name = f"tiny@{json.loads((exported / 'pipeline.json').read_text())['weights_sha256'][:12]}"
    assert [entry["from"] for entry in log] == [None] * len(STAGES) + [name]


def test_new_words_begin_small_and_known_words_stay(work_dir, exported, tmp_path):
    begin(tmp_path, exported)
    start = compose(tmp_path)
    ids = start.tokenizer("quasar woman", add_special_tokens=False)["input_ids"]
    new, known, unused = ids[0], ids[-1], start.tokenizer("zebra", add_special_tokens=False)["input_ids"][0]
    family = compose(tmp_path)
    meet_words(family, encode_prompts(family, ["a quasar"]))
    table, before = (f.text_encoder.get_input_embeddings().weight for f in (family, start))
    assert before[new].abs().max() == 0 and 0 < table[new].abs().max() < 0.1
    assert torch.equal(before[known], table[known]) and table[unused].abs().max() == 0


def test_a_lost_encoder_first_learns_to_invert_the_decoder(work_dir, exported, tmp_path):
    lacking = tmp_path / "exported"
    lacking.mkdir()
    for part in ("models", "tokenizer", "pipeline.json"):
        (lacking / part).symlink_to(exported / part)
    folder = tmp_path / "work"
    begin(folder, lacking)
    (folder / "data").symlink_to(work_dir / "data")
    with pytest.raises(ValueError, match="train the vae first"):
        train("tdm", folder)
    start = compose(folder).vae.state_dict()
    assert not torch.equal(
        start["autoencoder.encoder.conv_in.weight"],
        compose(work_dir, TINY).vae.state_dict()["autoencoder.encoder.conv_in.weight"],
    )

    def moved():
        state = compose(folder).vae.state_dict()
        return {key.split(".")[1] for key, value in state.items() if not torch.equal(value, start[key])}

    # 15 % of ten steps: the first two
    with pytest.raises(InterruptedError):
        train("vae", folder, cut_before=2, settings={"steps": 10})
    assert moved() == {"encoder", "quant_conv"}
    with pytest.raises(InterruptedError):
        train("vae", folder, cut_before=1, settings={"steps": 10})
    assert moved() == {"encoder", "quant_conv", "decoder", "post_quant_conv"}
    assert compose(folder).config["scaling_factor"] == compose(work_dir, TINY).config["scaling_factor"]
    assert "random_encoder" not in compose(folder).config


def test_a_work_directory_has_one_beginning(work_dir, exported, tmp_path):
    with pytest.raises(ValueError, match="began from random weights"):
        begin(work_dir, exported)
    begin(tmp_path / "work", exported)
    begin(tmp_path / "work", exported)  # the same again is fine
    save(compose(work_dir, TINY), tmp_path / "family")
    with pytest.raises(ValueError, match="take another --work-dir"):
        begin(tmp_path / "work", tmp_path / "family")
    with pytest.raises(ValueError, match="holds no weights: expected"):
        begin(tmp_path / "third", tmp_path / "work" / "nothing")


def test_a_stage_takes_its_own_settings_only(work_dir):
    with pytest.raises(ValueError, match="stage vae has no setting text_only"):
        train("vae", work_dir, settings={"text_only": 0.5})


def _note_pid_and_wait(folder):
    """What test_workers_end_with_their_parent runs in each worker."""
    (folder / str(os.getpid())).touch()
    time.sleep(300)


def test_workers_end_with_their_parent(tmp_path):
    """Also in the background of a script, where a shell lets its jobs ignore SIGINT."""
    code = (
        "import signal, sys; from pathlib import Path; from toolkit.train.launch import launch\n"
        "from toolkit.tests.test_train import _note_pid_and_wait\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"    launch(_note_pid_and_wait, (Path({str(tmp_path)!r}),), 2, 1)\n"
    )
    script = tmp_path.parent / "parent.py"
    script.write_text(code, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": os.getcwd()})
    try:
        _await(lambda: len(list(tmp_path.iterdir())) == 2)
        parent.terminate()
        parent.wait(10)
        _await(lambda: not any(Path(f"/proc/{pid.name}").exists() for pid in tmp_path.iterdir()))
    finally:
        parent.kill()
        for pid in tmp_path.iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid.name), signal.SIGKILL)


def _await(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
