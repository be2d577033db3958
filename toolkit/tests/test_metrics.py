"""The metrics: statistics, matching, the mini networks, the field's networks, client and command."""

import base64
import csv
import io
import json
import math
import statistics as standard
import threading
from dataclasses import asdict, replace
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from toolkit.data import people
from toolkit.data.captions import Content
from toolkit.data.held_out import PROMPTS, Prompt
from toolkit.data.people import SKIN_TONES, draw_identity, draw_look
from toolkit.data.samples import SCENES, make_sample
from toolkit.data.scenes import Scene
from toolkit.data.store import SetSpec, build
from toolkit.evaluate import evaluate, statistics
from toolkit.evaluate.client import GatewayError, collect, edit, read_pictures, text_only
from toolkit.evaluate.evaluate import parse_fields, summarise, table, write_scores
from toolkit.evaluate.metrics import IdentityScore, load_metrics, without_markers
from toolkit.evaluate.metrics.captions import Unalterable, alterations, content_of, reword
from toolkit.evaluate.metrics.command import Course, Plan, make
from toolkit.evaluate.metrics.faces import FaceSpec, build_faces, draw_picture, head_box, identity_of
from toolkit.evaluate.metrics.matching import match, score_faces
from toolkit.evaluate.metrics.mini import MiniMetrics, Words, decode, to_network
from toolkit.evaluate.metrics.networks import FACE_SIZE, MARGIN, Detector, Embedder, ImageTower, TextTower, crop_faces
from toolkit.evaluate.metrics.quality import subject_at
from toolkit.evaluate.metrics.training import (
    MarginClasses,
    Towers,
    detector_loss,
    detector_targets,
    embedder_loss,
    towers_loss,
    train,
)
from toolkit.evaluate.pair_scores import PairScore, fields_of
from toolkit.evaluate.pairs import pair_set


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- statistics -------------------------------------------------------------------------------------


def test_mean_and_deviation_are_the_textbooks():
    values = [0.2, 0.4, 0.9, 0.7]
    estimate = statistics.mean(values)
    assert estimate.value == pytest.approx(standard.mean(values))
    assert estimate.std == pytest.approx(standard.stdev(values))
    assert estimate.count == 4 and estimate.low <= estimate.value <= estimate.high


def test_the_interval_of_coin_flips_is_the_binomials():
    # Means of resamples of ten values, half of them 1, are Binomial(10, 1/2) / 10, whose 2.5 % and
    # 97.5 % quantiles are 2 and 8.
    estimate = statistics.mean([0.0, 1.0] * 5)
    assert (estimate.low, estimate.high) == pytest.approx((0.2, 0.8))


def test_the_interval_of_many_values_is_the_normal_one():
    values = np.random.default_rng(3).normal(0.6, 0.1, 400)
    estimate = statistics.mean(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert statistics.mean(values) == estimate  # seeded


def test_the_harmonic_mean_is_of_the_two_means_and_zero_without_one():
    first, second = [0.2, 0.6, 0.7], [0.9, 0.5, 0.1]
    expected = standard.harmonic_mean([standard.mean(first), standard.mean(second)])
    assert statistics.harmonic_mean(first, second).value == pytest.approx(expected)
    assert statistics.harmonic_mean([0.0, 0.0], [0.5, 0.5]).value == 0.0
    assert statistics.harmonic_mean([-0.4, 0.1], [0.5, 0.5]).value == 0.0


def test_resampling_keeps_a_pairs_scores_together():
    # Two scores of which one makes up for the other: their sum, so twice the arithmetic mean, never
    # varies; resampled apart it would. The harmonic mean of such columns varies little.
    rng = np.random.default_rng(0)
    first = rng.uniform(0.3, 0.7, 50)
    together = statistics.harmonic_mean(first, 1 - first)
    apart = statistics.harmonic_mean(first, rng.permutation(1 - first))
    assert together.high - together.low < 0.2 * (apart.high - apart.low)
    # and a row that is better by the same amount on every pair is better for certain
    gap = statistics.difference(first + 0.01, first)
    assert (gap.low, gap.high) == pytest.approx((0.01, 0.01)) and statistics.is_better(gap)
    assert not statistics.is_better(statistics.difference(first, rng.permutation(first)))
    assert statistics.is_better(statistics.harmonic_difference((first + 0.02, first), (first, first)))


def test_pairs_of_one_person_are_drawn_together():
    """Four equal scores a person: as sure as one score a person, not as four."""
    rng = np.random.default_rng(5)
    one_each = rng.normal(0.5, 0.1, 50)
    four_each, people = np.repeat(one_each, 4), np.repeat(np.arange(50), 4)
    single, together = statistics.mean(one_each), statistics.mean(four_each, people)
    assert (together.low, together.high) == pytest.approx((single.low, single.high))
    assert together.count == 200 and together.value == pytest.approx(single.value)
    independent = statistics.mean(four_each)
    assert (independent.high - independent.low) == pytest.approx((single.high - single.low) / 2, rel=0.1)
    with pytest.raises(ValueError, match="2 people for 3 pairs"):
        statistics.mean([0.1, 0.2, 0.3], ["a", "b"])


def test_statistics_refuse_what_cannot_be_compared():
    with pytest.raises(ValueError, match=r"\[2, 3\] scores"):
        statistics.difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="at least one pair"):
        statistics.mean([])
    with pytest.raises(ValueError, match="finite"):
        statistics.mean([0.5, float("nan")])
    assert f"{statistics.mean([0.5, 0.5]):.2f}" == "0.50 ± 0.00 [0.50, 0.50]"


# -- matching ---------------------------------------------------------------------------------------


def unit(*angles: float) -> np.ndarray:
    """Vectors in the plane; the cosine of two is that of the angle (in degrees) between them."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_the_best_match_comes_first_and_no_face_twice():
    assert match(np.array([[0.9, 0.8], [0.85, 0.1]])) == [0, 1]
    assert match(np.array([[0.2, 0.8], [0.9, 0.7]])) == [1, 0]
    assert match(np.array([[0.2], [0.9]])) == [None, 0]


def test_two_subjects_are_scored_against_their_own_and_the_others_face():
    score = score_faces(unit(0, 90), unit(100, 20))
    assert score.own == pytest.approx(np.cos(np.radians([20, 10])))
    assert score.swapped == pytest.approx(np.cos(np.radians([100, 70])))
    assert score.faces == 2 and score.kept_apart
    assert score.preservation == pytest.approx(math.cos(math.radians(20)))


def test_a_missing_face_scores_zero():
    score = score_faces(unit(0, 90), unit(80))
    assert score.own == pytest.approx([0.0, math.cos(math.radians(10))])
    assert score.swapped == pytest.approx([math.cos(math.radians(80)), 0.0])
    assert score.preservation == 0.0 and not score.kept_apart
    nobody = score_faces(unit(0), np.zeros((0, 2)))
    assert nobody == IdentityScore((0.0,), (), 0)
    assert score_faces(unit(0), unit(170)).preservation == 0.0  # never below a missing face


def test_of_more_faces_than_references_the_largest_count():
    score = score_faces(unit(0), unit(60, 0))  # the face that is exactly right is a small one
    assert score.own == pytest.approx((0.5,)) and score.faces == 2 and score.swapped == ()


# -- mini: pictures with head boxes -----------------------------------------------------------------


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return build_faces(tmp_path_factory.mktemp("faces"), FaceSpec(identities=6, pictures=32))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return build(tmp_path_factory.mktemp("scenes") / "set", SetSpec("scenes", "metric", 32), processes=1)


def test_face_pictures_depend_on_split_and_number_alone(faces):
    spec = FaceSpec(identities=6, pictures=32)
    for index in (3, 17):
        image, boxes, identities = draw_picture(spec, index)
        assert np.array_equal(image, faces.images[index]) and np.array_equal(boxes, faces.boxes[index])
        assert np.array_equal(identities, faces.identities[index])
    assert {identity_of("metric", k).split for k in range(6)} == {"metric"}
    assert set(np.unique(faces.identities)) == {-1, *range(6)}
    other = draw_picture(replace(spec, split="validation"), 3)[0]
    assert not np.array_equal(other, faces.images[3])


@pytest.mark.parametrize("tilt", [-7.0, 0.0, 7.0])
def test_a_head_box_lies_on_the_face(tilt):
    rng = np.random.default_rng(4)
    identity = replace(draw_identity(rng, "metric"), skin="tan", glasses="none", frame=people.GLASSES["none"][0])
    bust = people.render(identity, draw_look(rng, people.GARMENTS["hoodie"]), 132).rotate(tilt, Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (200, 200))
    canvas.paste(bust, (30, 40), bust)
    x, y, side = head_box(30, 40, 132, tilt)
    wanted = [int(SKIN_TONES["tan"][k : k + 2], 16) for k in (1, 3, 5)]
    rows, columns = np.nonzero((np.abs(np.asarray(canvas).astype(int) - wanted) <= 4).all(axis=2))
    assert len(rows) > 500
    inside = (np.abs(rows - y) < side / 2) & (np.abs(columns - x) < side / 2)
    assert inside.mean() > 0.85  # some of the neck lies below
    assert abs(columns[inside].mean() - x) < 0.08 * side


def test_boxes_survive_the_detectors_targets(faces):
    boxes, real = torch.from_numpy(faces.boxes[:]), torch.from_numpy(faces.identities[:] >= 0)
    heat, targets, near = detector_targets(boxes, real)
    assert near.sum() >= real.sum() and near[~real.any(dim=1)].sum() == 0
    for k in range(len(boxes)):
        _, found = decode(heat[k], targets[k])
        wanted = sorted(boxes[k][real[k]].tolist(), key=lambda box: -box[2])
        assert torch.allclose(found, torch.tensor(wanted).view(-1, 3), atol=1e-3)


def test_a_head_found_twice_counts_once():
    heat, offsets = torch.zeros(16, 16), torch.zeros(3, 16, 16)
    heat[5, 5], heat[5, 7], heat[12, 12], heat[1, 14] = 0.9, 0.8, 0.7, 0.1
    offsets[2] = math.log(40 / 64)
    strongest, found = decode(heat, offsets)
    assert found.tolist() == [[44.0, 44.0, 40.0], [100.0, 100.0, 40.0]]
    assert strongest.tolist() == [44.0, 44.0, 40.0]
    assert decode(torch.full((16, 16), 0.01), offsets)[1].shape == (0, 3)


def test_a_crop_holds_the_head_with_its_margin():
    picture = torch.zeros(1, 3, 128, 128)
    picture[:, :, 40:80, 20:60] = 1.0  # a head of 40 pixels about (40, 60)
    crop = crop_faces(picture, torch.tensor([[40.0, 60.0, 40.0]]))
    assert crop.shape == (1, 3, FACE_SIZE, FACE_SIZE)
    assert crop.mean() == pytest.approx(MARGIN**-2, abs=0.02)
    columns = crop[0, 0].mean(dim=0)
    assert torch.allclose(columns, columns.flip(0), atol=0.05)
    assert crop_faces(picture, torch.tensor([[0.0, 60.0, 30.0]])).isfinite().all()


# -- mini: captions ---------------------------------------------------------------------------------


def test_contents_are_read_back_from_a_data_set(scenes):
    for index in range(16):
        assert content_of(scenes.samples[index]) == make_sample(SCENES, "metric", index).content


def test_a_false_caption_changes_one_thing_and_nobody(scenes):
    rng = np.random.default_rng(0)
    for sample in scenes.samples:
        content = content_of(sample)
        for kind, change in alterations(content).items():
            changed = change(rng)
            assert changed != content
            kept = {"place", "time", "weather", "detail", "wall"} - {kind}
            if kind == "place":
                kept = {"time"} if changed.scene.time == content.scene.time else set()
            assert all(getattr(changed.scene, name) == getattr(content.scene, name) for name in kept)
        true, false = reword(rng, sample)
        assert true != false
        assert true.count("<|image|>") == content.people


def test_no_false_caption_asks_for_what_is_held_out():
    """No true one does: the towers would learn that held-out sentences are always false."""
    held_out = Prompt("style", "a blueprint of a {} on the moon", "moon", style="blueprint")
    assert held_out in PROMPTS
    shown = Content(Scene("moon", "day"), 1, clothes="red shirt", style="sepia")
    sample = {**asdict(shown), **asdict(shown.scene), "caption": "a sepia photo of a woman <|image|> on the moon"}
    rng = np.random.default_rng(0)
    styles = [reword(rng, sample, "style")[1] for _ in range(60)]
    assert not any("blueprint" in text for text in styles) and any("pastel" in text for text in styles)


def test_a_caption_whose_every_change_is_held_out_is_refused():
    """Two people can do one thing together, and a held-out sentence asks for it there."""
    assert Prompt("action", "a {0} and a {1} both waving in the city", "city", action="waving", people=2) in PROMPTS
    shown = Content(Scene("city", "day"), 2)
    sample = {**asdict(shown), **asdict(shown.scene), "caption": "a woman <|image|> and a man <|image|> in the city"}
    with pytest.raises(Unalterable, match="no action of 'a woman"):
        reword(np.random.default_rng(0), sample, "action")
    assert all(reword(np.random.default_rng(seed), sample) for seed in range(20))


def test_captions_of_one_picture_do_not_tell_who_it_shows(scenes):
    rng = np.random.default_rng(0)
    sample = next(s for s in scenes.samples if s["people"] == 1)
    nouns = {reword(rng, sample, "place")[0].split(" <|image|>")[0].split()[-1] for _ in range(80)}
    assert {"woman", "man", "girl", "grandfather"} <= nouns


def test_words_are_the_captions_tokens_and_one_for_all_others():
    words = Words.of(["a woman <|image|> reading", "a man"])
    rows = words.rows(["a woman <|image|> reading", "a man flies"])
    assert rows.shape == (2, 3)
    assert rows[0].tolist() == words.rows(["a woman reading"])[0].tolist()
    assert rows[1, 0] == rows[0, 0] and rows[1, 2] == 1 and (rows[0] > 1).all()
    assert words.rows(["a", "a woman reading"])[0].tolist()[1:] == [0, 0]
    assert without_markers("<|image|> a woman <|image|> and a man <|image|>") == "a woman and a man"


# -- mini: networks ---------------------------------------------------------------------------------


def test_the_detector_learns_to_find_heads(faces, tmp_path):
    torch.manual_seed(0)
    metrics = MiniMetrics.new(Words([1]))
    train("detector", metrics.detector, lambda rng: detector_loss(metrics.detector, faces, 16, rng), 120, 3e-3, tmp_path)
    with torch.no_grad():
        found = metrics.find_faces(to_network(faces.images))
    hits = total = 0
    for (_, seen), boxes, identities in zip(found, faces.boxes, faces.identities, strict=True):
        real = torch.from_numpy(boxes[identities >= 0])
        total += len(real)
        hits += sum(bool(((seen[:, :2] - box[:2]).norm(dim=1) < 0.25 * box[2]).any()) for box in real) if len(seen) else 0
    assert hits > 0.6 * total


def test_the_embedder_learns_who_a_face_is(faces, tmp_path):
    torch.manual_seed(0)
    embedder, classes = Embedder(), MarginClasses(6)
    both = nn.ModuleList([embedder, classes])
    train("embedder", both, lambda rng: embedder_loss(embedder, classes, faces, 24, rng), 60, 2e-3, tmp_path)
    pictures, slots = np.nonzero(faces.identities[:] >= 0)
    pixels = to_network(faces.images)[torch.from_numpy(pictures)]
    with torch.no_grad():
        seen = embedder(crop_faces(pixels, torch.from_numpy(faces.boxes[pictures, slots])))
    assert torch.allclose(seen.norm(dim=1), torch.ones(len(seen)), atol=1e-5)
    who = torch.from_numpy(faces.identities[pictures, slots])
    cosines, same = seen @ seen.T, who[:, None] == who
    assert cosines[same].mean() > cosines[~same].mean() + 0.3


def test_the_towers_learn_which_sentence_is_true(scenes, tmp_path):
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    words = Words.of([caption for sample in scenes.samples for _ in range(8) for caption in reword(rng, sample)])
    towers = Towers(ImageTower(), TextTower(len(words.ids)))
    train("towers", towers, lambda rng: towers_loss(towers, words, scenes, 32, rng), 40, 1e-3, tmp_path)
    metrics = MiniMetrics(Detector(), Embedder(), towers.image, towers.text, words).eval()
    captions = [reword(rng, sample) for sample in scenes.samples]
    cosines = metrics.embed_pictures(scenes.images) @ metrics.embed_sentences([true for true, _ in captions]).T
    ranks = (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    assert ranks.mean() < 8  # 15.5 by chance


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A plan of a few steps, the work directory it ran in, its weights and what it reported."""
    course = Course(2, 8, 1e-3)
    finds = Course(120, 16, 3e-3)  # enough to find heads, so that there is something to tell apart
    plan = Plan(finds, course, course, FaceSpec(identities=6, pictures=32), pictures=24, held_out=110, validation=40)
    folder = tmp_path_factory.mktemp("metrics")
    return plan, folder, folder / "tiny.safetensors", make(plan, folder, folder / "tiny.safetensors")


def test_a_training_that_was_cut_reaches_the_same_weights(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.evaluate.metrics.training._CHECKPOINT_SECONDS", 0.0)

    class CutError(Exception):
        pass

    def trained(folder, cut_after=None):
        torch.manual_seed(0)
        detector, calls = Detector(), []

        def loss(rng):
            calls.append(rng)
            if len(calls) == cut_after:
                raise CutError
            return detector_loss(detector, faces, 8, rng)

        train("detector", detector, loss, 3, 1e-3, folder)
        return detector.state_dict(), len(calls)

    whole, steps = trained(tmp_path / "whole")
    assert steps == 3
    with pytest.raises(CutError):
        trained(tmp_path / "cut", cut_after=3)
    resumed, steps = trained(tmp_path / "cut")
    assert steps == 1
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    assert trained(tmp_path / "cut")[1] == 0


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    train("classes", MarginClasses(6), lambda rng: torch.zeros((), requires_grad=True), 1, 1e-3, tmp_path)
    with pytest.raises(ValueError, match="delete it to train anew"):
        train("classes", MarginClasses(7), lambda rng: torch.zeros((), requires_grad=True), 1, 1e-3, tmp_path)


def test_a_checkpoint_of_other_data_or_numbers_is_refused(tmp_path):
    def run(rate=1e-3, seed=0, data="faces"):
        train("classes", MarginClasses(6), lambda rng: torch.zeros((), requires_grad=True), 1, rate, tmp_path, seed, data)

    run()
    run()
    for other in ({"rate": 2e-3}, {"seed": 1}, {"data": "other faces"}):
        with pytest.raises(ValueError, match="other data or numbers .* delete it to train anew"):
            run(**other)


def test_what_is_stated_of_the_networks_is_complete(tiny):
    _, _, weights, report = tiny
    assert json.loads(weights.with_suffix(".json").read_text()) == json.loads(json.dumps(report))
    assert report["detector"]["pictures"] == 110 and report["caption_retrieval"]["pictures"] == 100
    assert 0.0 <= report["verification"]["accuracy"] <= 1.0 and report["verification"]["pairs"]["hard"] > 0
    assert set(report["true_or_false_caption"]["wrong_in"]) >= {"place", "time", "action", "clothes"}
    assert weights.stat().st_size < 8 * 2**20


def test_weights_are_read_back_as_they_were_written(tiny, tmp_path):
    metrics = MiniMetrics.load(tiny[2])
    metrics.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == tiny[2].read_bytes()
    with pytest.raises(FileNotFoundError, match="python -m toolkit metrics"):
        load_metrics("mini", tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match="unknown metrics 'clip'; there are mini, field"):
        load_metrics("clip")
    with pytest.raises(ValueError, match="--weights"):
        load_metrics("field")


def test_the_mini_metrics_score_pictures_of_any_size(tiny):
    metrics = load_metrics("mini", tiny[2])
    sample = next(s for s in (make_sample(SCENES, "held_out", k) for k in range(99)) if len(s.subjects) == 2)
    references = [subject.reference for subject in sample.subjects]
    score = metrics.identity(sample.image, references)
    assert len(score.own) == len(score.swapped) == 2
    assert all(-1.001 <= cosine <= 1.001 for cosine in score.own + score.swapped)
    large = np.asarray(Image.fromarray(sample.image).resize((256, 256), Image.Resampling.BICUBIC))
    cosines = metrics.prompt([sample.image, large], [sample.caption] * 2)
    assert cosines.shape == (2,) and cosines[0] == pytest.approx(cosines[1], abs=0.05)
    assert metrics.prompt([], []).shape == (0,)
    with pytest.raises(ValueError, match=r"uint8 \[64, 128, 3\]; the mini metrics read uint8 \[s, s, 3\]"):
        metrics.identity(sample.image[:64], references)
    with pytest.raises(ValueError, match="one prompt a picture"):
        metrics.prompt([sample.image], [])
    with pytest.raises(ValueError, match="at least one reference"):
        metrics.identity(sample.image, [])


def test_a_detection_belongs_to_who_fills_its_middle():
    labels = np.zeros((128, 128), np.uint8)
    labels[30:, 10:60], labels[30:, 64:120] = 1, 2
    assert subject_at(labels, (35.0, 60.0, 40.0)) == 0
    assert subject_at(labels, (90.0, 60.0, 40.0)) == 1
    assert subject_at(labels, (90.0, 10.0, 20.0)) is None
    assert subject_at(labels, (-5.0, 60.0, 20.0)) is None


# -- the field's networks ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def field_folder(tmp_path_factory):
    """FaceNet in its published layout and CLIP in Hugging Face's, both with random weights."""
    from facenet_pytorch import InceptionResnetV1
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from toolkit.evaluate.metrics.field import CLIP, FACENET
    from toolkit.models import write_tokenizer

    folder = tmp_path_factory.mktemp("field")
    torch.manual_seed(0)
    # the published file holds the classifier of VGGFace2's 8631 people too
    torch.save(InceptionResnetV1(classify=True, num_classes=8631).state_dict(), folder / FACENET)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**layers, "vocab_size": 49409, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    config = CLIPConfig(text_config=text, vision_config={**layers, "image_size": 224, "patch_size": 32}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder / CLIP)
    tokenizer = write_tokenizer(folder / CLIP)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder / CLIP)
    return folder


@pytest.fixture(scope="module")
def portraits():
    faces = (Image.open(f"examples/{name}.png").convert("RGB") for name in ("bob", "carol"))
    return [np.asarray(face) for face in faces]


def test_the_fields_networks_find_and_match_faces(field_folder, portraits):
    metrics = load_metrics("field", field_folder)
    bob, carol = portraits
    assert metrics.identity(bob, [bob]).own == pytest.approx((1.0,), abs=1e-4)
    both = metrics.identity(np.concatenate([carol, bob], axis=1), [bob, carol])
    assert both.faces == 2 and len(both.own) == len(both.swapped) == 2
    nothing = np.zeros((128, 128, 3), np.uint8)
    assert metrics.identity(nothing, [bob]) == IdentityScore((0.0,), (), 0)
    with pytest.raises(ValueError, match="no face on reference 2 of 2"):
        metrics.identity(bob, [bob, nothing])


def test_the_fields_prompt_score_is_clips_cosine(field_folder, portraits):
    from transformers import CLIPModel, CLIPTokenizerFast

    from toolkit.evaluate.metrics.field import CLIP
    from toolkit.models.family import IMAGE_MEAN, IMAGE_STD

    prompts = ["a man <|image|> reading", "a woman <|image|> on the moon at night"]
    cosines = load_metrics("field", field_folder).prompt(portraits, prompts)
    # CLIP's steps by hand: bicubic resize to 224, CLIP's mean and deviation, both embeddings normalised
    clip = CLIPModel.from_pretrained(field_folder / CLIP).eval()
    tokenizer = CLIPTokenizerFast.from_pretrained(field_folder / CLIP)
    for portrait, prompt, cosine in zip(portraits, prompts, cosines, strict=True):
        small = np.asarray(Image.fromarray(portrait).resize((224, 224), Image.Resampling.BICUBIC)) / 255
        pixels = torch.from_numpy((small - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)).permute(2, 0, 1)[None].float()
        ids = tokenizer(prompt.replace(" <|image|>", ""), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            image, text = clip.get_image_features(pixels).pooler_output, clip.get_text_features(ids).pooler_output
        assert cosine == pytest.approx(float(torch.cosine_similarity(image, text)), abs=5e-3)


def test_a_folder_without_the_fields_weights_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks 20180402-114759-vggface2.pt and clip-vit-large-patch14/config.json"):
        load_metrics("field", tmp_path)


# -- client -----------------------------------------------------------------------------------------


class Gateway(ThreadingHTTPServer):
    """Answers as docs/http-api.md says and remembers what it was asked; `script` holds answers
    (status, headers, body) to give first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict]] = []
        self.script: list[tuple[int, dict, bytes]] = []
        self.url, self.weights = f"http://127.0.0.1:{self.server_port}", "a1f5"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.script:
            return self.reply(*self.server.script.pop(0))
        if self.path.endswith("/edits"):
            form = message_from_bytes(b"content-type: " + self.headers["content-type"].encode() + b"\r\n\r\n" + body, policy=HTTP)
            fields: dict = {"image": []}
            for part in form.iter_parts():
                name, data = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
                if name == "image":
                    fields["image"].append(np.asarray(Image.open(io.BytesIO(data))))
                else:
                    fields[name] = data.decode()
        else:
            fields = json.loads(body)
        self.server.asked.append((self.path, fields))
        png = io.BytesIO()
        Image.new("RGB", (128, 128), (int(fields["seed"]) % 256, 0, 0)).save(png, "PNG")
        answer = {
            "data": [{"b64_json": base64.b64encode(png.getvalue()).decode(), "seed": int(fields["seed"])}],
            "facediffuser": {"prompt_used": fields["prompt"], "parameters": {"weights": self.server.weights}},
        }
        return self.reply(200, {}, json.dumps(answer).encode())

    def reply(self, status, headers, body):
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def gateway():
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def pairs():
    everything = pair_set("validation")
    return [p for p in everything if len(p.references) == 1][:3] + [p for p in everything if len(p.references) == 2][:2]


def test_a_pair_is_asked_for_with_its_references_in_order(gateway, pairs):
    image, details = edit(gateway.url, pairs[-1], guidance_scale=2.5)
    path, fields = gateway.asked[0]
    assert path == "/v1/images/edits"
    assert (fields["prompt"], fields["seed"], fields["guidance_scale"]) == (pairs[-1].prompt, str(pairs[-1].seed), "2.5")
    assert all(np.array_equal(a, b) for a, b in zip(fields["image"], pairs[-1].references, strict=True))
    assert image.shape == (128, 128, 3) and details["parameters"] == {"weights": "a1f5"}
    edit(gateway.url, text_only(pairs[-1]), num_inference_steps=4)
    path, fields = gateway.asked[1]
    assert path == "/v1/images/generations" and "<|image|>" not in fields["prompt"]
    assert fields == {"prompt": without_markers(pairs[-1].prompt), "seed": pairs[-1].seed, "num_inference_steps": 4}


def test_only_missing_pictures_are_asked_for(gateway, pairs, tmp_path):
    collect(gateway.url, pairs[:2], tmp_path, {"guidance_scale": 3})
    collect(gateway.url, pairs, tmp_path, {"guidance_scale": 3}, parallel=3)
    assert sorted(f["prompt"] + f["seed"] for _, f in gateway.asked) == sorted(p.prompt + str(p.seed) for p in pairs)
    for pair, picture in zip(pairs, read_pictures(tmp_path, pairs), strict=True):
        assert picture[0, 0].tolist() == [pair.seed % 256, 0, 0]
        about = json.loads((tmp_path / f"{pair.name}.json").read_text())
        assert about["facediffuser"]["prompt_used"] == pair.prompt
    with pytest.raises(ValueError, match="use another folder"):
        collect(gateway.url, pairs, tmp_path, {"guidance_scale": 4})
    gateway.weights = "b2e6"
    collect(gateway.url, pairs, tmp_path, {"guidance_scale": 3})  # nothing is missing, nothing is asked
    (tmp_path / f"{pairs[1].name}.png").unlink()
    with pytest.raises(GatewayError, match="serves weights b2e6, the folder's pictures were made with a1f5"):
        collect(gateway.url, pairs, tmp_path, {"guidance_scale": 3})
    gateway.weights = "a1f5"
    collect(gateway.url, pairs, tmp_path, {"guidance_scale": 3})
    with pytest.raises(ValueError, match="delete this one"):
        collect(gateway.url, [replace(pairs[0], seed=77)], tmp_path, {"guidance_scale": 3})
    with pytest.raises(FileNotFoundError, match="lacks nobody.png; it must hold one PNG a pair"):
        read_pictures(tmp_path, [replace(pairs[0], name="nobody")])


def test_a_full_queue_is_waited_for_and_a_refusal_told(gateway, pairs, tmp_path):
    gateway.script = [(429, {"retry-after": "0"}, b"{}"), (503, {"retry-after": "0"}, b"{}")]
    edit(gateway.url, pairs[0])
    assert len(gateway.asked) == 1 and not gateway.script
    gateway.script = [(400, {}, json.dumps({"error": {"message": "guidance_scale is too large"}}).encode())]
    with pytest.raises(GatewayError, match=f"refuses {pairs[0].name} .* with 400: guidance_scale is too large"):
        collect(gateway.url, pairs[:1], tmp_path)
    gateway.script = [(200, {}, b"<html>welcome</html>")]
    with pytest.raises(GatewayError, match="is no Face-Diffuser gateway"):
        edit(gateway.url, pairs[0])
    with pytest.raises(GatewayError, match="no gateway answers at .*make run.*refused"):
        edit("http://127.0.0.1:9", pairs[0])


# -- command ----------------------------------------------------------------------------------------


def score(name: str, own: tuple, swapped: tuple = (), faces: int = 1, group: str = "style", prompt: float = 0.5) -> PairScore:
    return PairScore(name, name, group, 7, IdentityScore(own, swapped, faces), prompt)


def read_scores(path: Path) -> list[PairScore]:
    with path.open() as file:
        return [PairScore(**fields_of(line)) for line in csv.DictReader(file)]


def test_scores_survive_their_csv(tmp_path):
    scores = [score("a", (0.25,)), score("b", (0.75, -0.125), (0.5, 0.0), 2, "action", -0.25), score("c", (0.0,), faces=0)]
    write_scores(tmp_path / "scores.csv", scores)
    assert read_scores(tmp_path / "scores.csv") == scores
    with (tmp_path / "scores.csv").open() as file:
        assert [float(line["identity"]) for line in csv.DictReader(file)] == [0.25, 0.0, 0.0]


def test_the_table_has_a_row_a_group_for_one_and_for_two_subjects():
    scores = [score("a", (0.4,)), score("b", (0.6,), group="action"), score("c", (0.9,), group="action", prompt=0.8)]
    scores += [score("d", (0.9, 0.8), (0.1, 0.2), 2), score("e", (0.9, 0.2), (0.1, 0.3), 2), score("f", (0.9, 0.0), (0.1, 0.0))]
    rows = summarise(scores)
    assert [row.title for row in rows] == [
        "one subject", "one subject, style", "one subject, action", "2 subjects", "2 subjects, style",
    ]  # fmt: skip
    assert rows[2].identity.value == pytest.approx(0.75) and rows[2].prompt.value == pytest.approx(0.65)
    assert rows[0].kept_apart is None and rows[0].all_faces == 1.0
    assert rows[3].kept_apart == pytest.approx(1 / 3) and rows[3].all_faces == pytest.approx(2 / 3)
    assert rows[3].identity.value == pytest.approx((0.8 + 0.2 + 0.0) / 3)  # the worse subject of each
    assert table(rows).count("\n") == 6


def test_fields_are_values_of_the_api():
    assert parse_fields(["guidance_scale=2.5", "start_merge_step=-1", "negative_prompt=rain"]) == {
        "guidance_scale": 2.5, "start_merge_step": -1, "negative_prompt": "rain",
    }  # fmt: skip
    with pytest.raises(ValueError, match="not of the form"):
        parse_fields(["guidance_scale"])
    with pytest.raises(ValueError, match="cannot set 'seed'"):
        parse_fields(["seed=3"])


def test_a_gateway_and_another_systems_folder_are_scored(gateway, tiny, tmp_path, capsys):
    from toolkit.__main__ import main

    common = ["--sets", "validation", "--weights", str(tiny[2])]
    assert main(["evaluate", "--url", gateway.url, "--out", str(tmp_path / "gateway"), *common]) == 0
    printed = capsys.readouterr().out
    asked = pair_set("validation")
    for title, count in (("one subject", 1), ("2 subjects", 2)):
        assert f"| {title} | {sum(len(p.references) == count for p in asked)} |" in printed
    assert all(f"| one subject, {group} |" in printed for group in {p.group for p in asked if len(p.references) == 1})
    ours = read_scores(tmp_path / "gateway" / "scores.csv")
    assert [(s.pair, s.group, s.seed, s.subjects) for s in ours] == [
        (p.name, p.group, p.seed, len(p.references)) for p in asked
    ]
    theirs = tmp_path / "theirs"
    assert main(["evaluate", "--list-pairs", str(theirs), *common]) == 0
    listed = [json.loads(line) for line in (theirs / "pairs.jsonl").read_text().splitlines()]
    for entry in listed:
        assert all((theirs / name).exists() for name in entry["references"])
        (theirs / f"{entry['name']}.png").write_bytes((tmp_path / "gateway" / f"{entry['name']}.png").read_bytes())
    assert main(["evaluate", "--pictures", str(theirs), "--csv", str(tmp_path / "theirs.csv"), *common]) == 0
    assert read_scores(tmp_path / "theirs.csv") == ours
    (theirs / f"{listed[0]['name']}.png").unlink()
    assert main(["evaluate", "--pictures", str(theirs), *common]) == 1
    assert "one PNG a pair" in capsys.readouterr().err


def test_the_command_explains_itself(capsys):
    import argparse

    parser = argparse.ArgumentParser(description=evaluate.__doc__)
    evaluate.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "--pictures" in capsys.readouterr().out
