"""Every stage at tiny size: it runs, resumes to the same weights, and trains what it says."""

import pytest
import torch

from toolkit.models import TINY, load, save
from toolkit.train.checkpoints import STAGES, compose
from toolkit.train.command import prepare
from toolkit.train.loop import Options, Stage, checkpoint_path, run_stage

COUNTS = {"scenes-train": 32, "scenes-validation": 18, "subjects-train": 32, "subjects-validation": 18}


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    """A work directory in which each stage has run three steps, cut once before the last."""
    folder = tmp_path_factory.mktemp("work")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Stage.sample_steps, steps = 2, Stage.sample_steps
    for stage in STAGES:
        options = Options(folder, steps=3, batch=4, checkpoint_seconds=0)
        cut = prepare(stage, options, TINY, COUNTS)
        real, calls = cut.loss, []

        def stop_at_third(draw, batch, real=real, calls=calls):
            calls.append(1)
            if len(calls) == 3:
                raise InterruptedError
            return real(draw, batch)

        cut.loss = stop_at_third
        with pytest.raises(InterruptedError):
            run_stage(cut, options)
        run_stage(prepare(stage, options, TINY, COUNTS), options)
    yield folder
    Stage.sample_steps = steps
    torch.set_num_threads(threads)


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_stage_reaches_the_same_weights(stage, work_dir, tmp_path):
    for earlier in ("data", "latents"):
        if (work_dir / earlier).exists():
            (tmp_path / earlier).symlink_to(work_dir / earlier)
    (tmp_path / "checkpoints").mkdir()
    for earlier in STAGES[: STAGES.index(stage)]:
        checkpoint_path(tmp_path, earlier).symlink_to(checkpoint_path(work_dir, earlier))
    options = Options(tmp_path, steps=3, batch=4)
    whole = run_stage(prepare(stage, options, TINY, COUNTS), options)
    resumed = torch.load(checkpoint_path(work_dir, stage), weights_only=False)
    assert whole["step"] == resumed["step"] == 3
    assert whole["losses"] == resumed["losses"]
    for kind in ("networks", "ema"):
        for name, state in whole[kind].items():
            for key, value in state.items():
                assert torch.equal(value, resumed[kind][name][key]), f"{kind} {name}.{key}"
    assert list((tmp_path / "samples" / stage).glob("*.png"))


def test_stages_train_their_networks_and_no_others(work_dir):
    trains = {
        "vae": {"vae"},
        "attributes": {"image_encoder"},
        "tdm": {"unet_tdm", "text_encoder", "unet_sdm"},  # the SDM starts as a copy
        "sdm": {"unet_sdm", "subject_fuser"},
        "decoder": {"vae"},
    }
    for stage, later in zip(STAGES, [*STAGES[1:], None], strict=True):
        before, after = compose(work_dir, TINY, until=stage), compose(work_dir, TINY, until=later)
        changed = {
            name
            for name, network in before.networks().items()
            if any(not torch.equal(v, after.networks()[name].state_dict()[k]) for k, v in network.state_dict().items())
        }
        assert changed == trains[stage], stage


def test_the_last_stage_leaves_latents_alone(work_dir):
    before, after = compose(work_dir, TINY, until="decoder"), compose(work_dir, TINY)
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        assert torch.equal(before.vae.encode(pixels).mode(), after.vae.encode(pixels).mode())
        assert not torch.equal(before.vae.decode(torch.ones(1, 4, 16, 16)), after.vae.decode(torch.ones(1, 4, 16, 16)))
    assert before.config["scaling_factor"] == after.config["scaling_factor"]


def test_words_of_no_caption_say_nothing(work_dir):
    family = compose(work_dir, TINY)
    table = family.text_encoder.get_input_embeddings().weight
    used = family.tokenizer("a woman", add_special_tokens=False)["input_ids"]
    unused = family.tokenizer("quasar", add_special_tokens=False)["input_ids"]
    assert table[used].abs().sum(dim=1).min() > 0
    assert table[unused].abs().max() == 0


def test_the_family_of_a_work_directory_can_be_saved_at_any_time(work_dir, tmp_path):
    save(compose(work_dir, TINY), tmp_path / "family")
    assert [t["stage"] for t in load(tmp_path / "family").config["trained"]] == list(STAGES)
