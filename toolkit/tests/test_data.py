"""The generated world: same bytes every time, exact masks, nothing held out in training."""

import numpy as np
import pytest
from PIL import Image

from toolkit.data import people, samples
from toolkit.data.people import draw_identity, draw_look
from toolkit.data.samples import HELD_OUT_SCENES, RECIPES, SCENES, SUBJECTS, is_held_out, make_sample
from toolkit.data.scenes import DETAILS, PLACES, TIMES, Scene, draw_scene
from toolkit.data.store import build, open_dataset
from toolkit.evaluate.examples import NAMES, identity_of
from toolkit.evaluate.pairs import SHEET_PROMPTS, sheet_pairs, validation_pairs
from toolkit.models import MARKER


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_sample_has_the_same_bytes_every_time(recipe):
    first, second = make_sample(recipe, "train", 11), make_sample(recipe, "train", 11)
    assert first.caption == second.caption
    assert first.image.tobytes() == second.image.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()
    for a, b in zip(first.subjects, second.subjects, strict=True):
        assert a.reference.tobytes() == b.reference.tobytes()
    assert first.image.tobytes() != make_sample(recipe, "train", 12).image.tobytes()


def test_a_set_on_disk_holds_what_the_samples_hold(tmp_path):
    built = build(tmp_path / "set", "scenes", "validation", 24, processes=2)
    opened = open_dataset(tmp_path / "set")
    assert len(opened) == len(built) == 24
    for index in (0, 7, 23):
        sample = make_sample(SCENES, "validation", index)
        assert np.array_equal(opened.images[index], sample.image)
        assert np.array_equal(opened.labels[index], sample.labels)
        first = opened.samples[index]["first_reference"]
        for k, subject in enumerate(sample.subjects):
            assert np.array_equal(opened.references[first + k], subject.reference)


def test_labels_are_exactly_where_the_person_covers_the_scene():
    rng = np.random.default_rng(5)
    identity, look = draw_identity(rng, "train"), draw_look(rng, people.GARMENTS["shirt"])
    scene = Scene("forest", "day")
    image, labels = samples.compose(np.random.default_rng(9), scene, [identity], [look], None)
    empty = np.asarray(draw_scene(np.random.default_rng(9), scene, samples.IMAGE_SIZE))
    changed = (image != empty).any(axis=2)
    assert 0.2 < labels.mean() < 0.8
    # outside the label at most the soft edge differs, one pixel wide
    grown = np.zeros_like(changed)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            grown |= np.roll(labels > 0, (dy, dx), axis=(0, 1))
    assert not (changed & ~grown).any()
    assert (changed & (labels > 0)).sum() > 0.99 * (labels > 0).sum()


def test_several_people_have_a_label_a_reference_and_a_marker_each_from_left_to_right():
    seen = set()
    for recipe, index in ((recipe, index) for recipe in (SCENES, SUBJECTS) for index in range(16)):
        sample = make_sample(recipe, "train", index)
        count = len(sample.subjects)
        seen.add(count)
        assert sample.caption.count(MARKER) == count
        assert set(np.unique(sample.labels)) == set(range(count + 1))
        centres = [np.nonzero(sample.labels == k + 1)[1].mean() for k in range(count)]
        assert centres == sorted(centres)
    assert seen == {0, 1, 2, 3}


def test_splits_share_no_looks():
    looks = {}
    for number, split in enumerate(people.SPLITS):
        rng = np.random.default_rng(number)
        drawn = [draw_identity(rng, split) for _ in range(300)]
        looks[split] = {(i.hair, i.hair_colour, i.skin, i.frame, i.beard, i.nose) for i in drawn}
        assert all(i.split == split for i in drawn)
    assert not looks["train"] & looks["held_out"]
    assert not looks["train"] & looks["validation"]
    assert not looks["validation"] & looks["held_out"]


@pytest.mark.parametrize("recipe", [SCENES, SUBJECTS], ids=lambda r: r.name)
def test_no_training_sample_shows_a_held_out_scene(recipe):
    for index in range(100):
        sample = make_sample(recipe, "train", index)
        assert not is_held_out(sample.scene, sample.prop, sample.clothes)


def test_the_sheet_asks_held_out_people_for_held_out_scenes():
    pairs = sheet_pairs(reference_size=64)
    assert len(pairs) == 20 * 5 and len({p.seed for p in pairs}) == 100
    assert {p.identity.split for p in pairs} == {"held_out"}
    assert [place for _, place in SHEET_PROMPTS] == [held.place for held in HELD_OUT_SCENES]
    assert {p.identity.split for p in validation_pairs(14)} == {"validation"}
    assert {identity_of(name)[0].split for name in NAMES} == {"held_out"}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_can_be_drawn_at_every_time_with_everything(place):
    plain = [np.asarray(draw_scene(np.random.default_rng(1), Scene(place, time), 64)) for time in TIMES]
    assert place == "moon" or len({p.tobytes() for p in plain}) == len(TIMES)
    for detail in DETAILS[place]:
        shown = np.asarray(draw_scene(np.random.default_rng(1), Scene(place, "day", detail), 64))
        assert (shown != plain[0]).any()


def test_a_rendering_has_the_identitys_colours():
    rng = np.random.default_rng(3)
    identity = draw_identity(rng, "train")
    pixels = np.asarray(people.render(identity, draw_look(rng, people.GARMENTS["shirt"]), 120))
    for colour in (people.HAIR_COLOURS[identity.hair_colour], people.SKIN_TONES[identity.skin]):
        wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(pixels[..., :3].astype(int) - wanted).max(axis=2) <= 3).sum() > 50
    assert isinstance(people.render(identity, draw_look(rng, people.GARMENTS["hoodie"]), 60), Image.Image)
