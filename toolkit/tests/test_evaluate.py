"""Judges on ground truth, scores and the sheet."""

import numpy as np

from toolkit.data.samples import SUBJECTS, make_sample
from toolkit.evaluate.judges import load_judge, read
from toolkit.evaluate.pairs import sheet_pairs
from toolkit.evaluate.scores import both_win, judge_pictures
from toolkit.evaluate.sheet import draw, score
from toolkit.models import TINY, new_family
from toolkit.train.preview import Method, Request, generate


def ground_truth(count):
    found = []
    index = 0
    while len(found) < count:
        sample = make_sample(SUBJECTS, "held_out", index)
        if len(sample.subjects) == 1 and sample.content.style is None:
            found.append(sample)
        index += 1
    return found


def test_judges_read_pictures_of_unseen_people_right():
    samples = ground_truth(60)
    seen = read(load_judge(), np.stack([s.image for s in samples]))
    for key in ("hair_colour", "skin", "glasses", "headwear"):
        truth = [s.subjects[0].identity.attributes()[key] for s in samples]
        assert np.mean([t == r[key] for t, r in zip(truth, seen, strict=True) if t is not None]) >= 0.95, key
    assert np.mean([s.content.scene.place == r["place"] for s, r in zip(samples, seen, strict=True)]) >= 0.95


def test_judges_do_not_pass_noise():
    pairs = sheet_pairs(reference_size=64)
    noise = np.random.default_rng(0).integers(0, 256, (len(pairs), 128, 128, 3), dtype=np.uint8)
    accuracy, _ = judge_pictures(load_judge(), pairs, noise)
    assert accuracy["place"] < 0.5 and np.mean(list(accuracy.values())) < 0.6


def test_both_win_counts_steps():
    assert both_win([0.05, 0.1, 0.5, 0.9, 0.95]) == 0.6
    assert both_win([]) == 0.0


def test_a_report_counts_answers_of_the_gateway():
    pairs = sheet_pairs(reference_size=64)
    details = [
        {"images": [{"fusion": {"steps": [16, 17], "sdm_share": [0.5, 0.02]}}], "parameters": {"seed": 1, "steps": 50}}
    ] * len(pairs)
    images = np.zeros((len(pairs), 128, 128, 3), np.uint8)
    report = score(pairs, images, details)
    assert report["both_models_win"]["share_of_fusion_steps"] == 0.5
    assert report["sdm_share_by_step"] == {16: 0.5, 17: 0.02}
    assert report["parameters"] == {"steps": 50} and not report["passed"]
    assert draw(pairs, images).width == 2 * 6 * 128 + 16


def test_batches_of_pictures_depend_on_each_requests_seed_alone():
    family = new_family(seed=1, preset=TINY)
    pairs = sheet_pairs(reference_size=64, count=1)[:3]
    requests = [Request(p.prompt, list(p.references), p.seed) for p in pairs]
    method = Method(steps=4, guidance_scale=3.0, start_merge_step=0, final_step=2)
    together = generate(family, requests, method)
    assert together.images.shape == (3, 128, 128, 3) and together.sdm_shares.shape == (2, 3)
    alone = generate(family, requests[1:2], method)
    # bf16 kernels may differ in the last bits between batch sizes
    assert np.abs(together.images[1].astype(int) - alone.images[0].astype(int)).mean() < 8
