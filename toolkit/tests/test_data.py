"""The generated world: same bytes every time, exact masks, nothing held out in training."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from toolkit.data import people, samples
from toolkit.data.captions import Content, person_nouns, vocabulary
from toolkit.data.held_out import GROUPS, PROMPTS, is_held_out
from toolkit.data.people import draw_identity, draw_look
from toolkit.data.samples import RECIPES, SCENES, SUBJECTS, make_sample, sample_rng, write_script
from toolkit.data.scenes import DETAILS, PLACES, TIMELESS, TIMES, Scene, draw_scene
from toolkit.data.store import SETS, SetSpec, build, open_dataset
from toolkit.data.styles import STYLES, apply_style
from toolkit.evaluate.examples import NAMES, SIZE, identity_of
from toolkit.evaluate.pairs import pair_set
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
    assert first.image.tobytes() != make_sample(recipe, "train", 11, seed=1).image.tobytes()


def test_a_set_on_disk_holds_what_the_samples_hold(tmp_path):
    built = build(tmp_path / "set", SetSpec("scenes", "validation", 24))
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
    image, labels = samples.compose(np.random.default_rng(9), Content(scene), [identity], [look])
    empty = np.asarray(draw_scene(np.random.default_rng(9), scene, samples.IMAGE_SIZE))
    changed = (image != empty).any(axis=2)
    assert 0.2 < labels.mean() < 0.8
    # outside the label at most the soft edge differs, two pixels of a tilted one
    grown = np.zeros_like(changed)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
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
        looks[split] = {identity.looks for identity in drawn}
        assert all(identity.split == split for identity in drawn)
    for split in people.SPLITS:
        for other in people.SPLITS:
            assert split == other or not looks[split] & looks[other]


def test_another_set_in_the_same_folder_is_drawn_anew(tmp_path):
    build(tmp_path, SetSpec("subjects", "validation", 8))
    kept = (tmp_path / "images.npy").stat().st_mtime_ns
    build(tmp_path, SetSpec("subjects", "validation", 8))
    assert (tmp_path / "images.npy").stat().st_mtime_ns == kept
    other = build(tmp_path, SetSpec("subjects", "validation", 8, seed=1))
    assert np.array_equal(other.images[5], make_sample(SUBJECTS, "validation", 5, seed=1).image)
    assert Image.open(tmp_path / "preview.png").size == (8 * 128, 128)


def test_hair_under_headwear_is_not_part_of_a_look():
    rng = np.random.default_rng(2)
    covered = next(i for i in (draw_identity(rng, "train") for _ in range(1000)) if i.headwear != "none")
    assert covered.attributes()["hair"] is None and covered.attributes()["hair_colour"] is None
    assert covered.hair.name not in covered.looks


def test_who_looks_the_same_is_the_same_person():
    """Headwear covers the hair and, without a beard, its colour: the split must not tell such people apart."""
    rng = np.random.default_rng(4)
    drawn = [draw_identity(rng, "train") for _ in range(600)]
    covered = [i for i in drawn if i.headwear != "none"]
    for identity in covered[:12]:
        look, shown = draw_look(rng, people.GARMENTS["shirt"]), set()
        for colour in people.HAIR_COLOURS:
            twin = replace(identity, hair_colour=colour)
            shown.add((twin.looks, people.render(twin, look, 40).tobytes()))
        bearded = identity.beard.name != "NONE"
        assert len(shown) == len({pixels for _, pixels in shown}) == (len(people.HAIR_COLOURS) if bearded else 1)
    assert {i.beard.name == "NONE" for i in covered[:12]} == {True, False}


def test_the_held_out_rule_knows_its_own_sentences():
    for prompt in PROMPTS:
        scene = Scene(prompt.place, prompt.time or "day", prompt.detail, prompt.weather)
        shown = Content(
            scene, prompt.people, prompt.action, prompt.accessory, prompt.accessory_colour, prompt.clothes, prompt.style
        )
        assert is_held_out(shown), prompt.text
    assert not is_held_out(Content(Scene("beach", "day"), 1, clothes="blue hoodie"))


@pytest.fixture(scope="module")
def training_scripts():
    """What every training picture of the family shows, without drawing it."""
    return {
        spec.recipe: [write_script(sample_rng(RECIPES[spec.recipe], spec.split, k, spec.seed), RECIPES[spec.recipe], "train")
                      for k in range(spec.count)]
        for spec in SETS if spec.split == "train"
    }  # fmt: skip


def test_training_has_more_than_ten_thousand_identities(training_scripts):
    assert len({i.looks for script in training_scripts["subjects"] for i in script.identities}) > 10000


def test_the_sets_differ_as_the_paper_says(training_scripts):
    """The scene set is rich in scenes and styles, the person set in people and poor in scenes."""
    scenes, subjects = (training_scripts[name] for name in ("scenes", "subjects"))

    def kinds(scripts):
        contents = (script.content for script in scripts[:20000])
        return len({(c.scene, c.action, c.accessory, c.style) for c in contents})

    assert kinds(scenes) > 4 * kinds(subjects)
    assert {s.content.scene.place for s in subjects} == {"studio"}
    assert np.mean([s.content.style is not None for s in subjects]) < 0.05


@pytest.mark.parametrize("recipe", [SCENES, SUBJECTS], ids=lambda r: r.name)
def test_training_never_meets_held_out_people_or_sentences(recipe, training_scripts):
    sets = [pair for name in ("sheet", "single", "double") for pair in pair_set(name, 64)]
    prompts, looks = {p.prompt for p in sets}, {i.looks for p in sets for i in p.identities}
    for script in training_scripts[recipe.name]:
        assert not looks & {identity.looks for identity in script.identities}
        assert not is_held_out(script.content)
        assert script.caption not in prompts
    for index in (0, 77, 149):  # and the pictures show what their scripts say
        sample, script = make_sample(recipe, "train", index), training_scripts[recipe.name][index]
        assert (sample.content, sample.caption) == (script.content, script.caption)
        assert [s.identity for s in sample.subjects] == script.identities


def test_the_sets_of_pairs_are_what_they_say():
    sets = {name: pair_set(name, 64) for name in ("sheet", "single", "double", "validation")}
    assert {name: len(pairs) for name, pairs in sets.items()} == {"sheet": 100, "single": 204, "double": 102, "validation": 40}
    for name, pairs in sets.items():
        assert len({p.name for p in pairs}) == len({p.seed for p in pairs}) == len(pairs)
        split = "validation" if name == "validation" else "held_out"
        assert {i.split for p in pairs for i in p.identities} == {split}
        assert all(p.prompt.count(MARKER) == len(p.identities) == len(p.references) for p in pairs)
    assert {len(p.identities) for p in sets["double"]} == {2}
    shown = {p.person: p.identities[0].looks for p in sets["single"]}
    assert len(shown) == len(set(shown.values())) == 51
    for name in ("single", "double", "validation"):
        assert {p.group for p in sets[name]} == set(GROUPS)
    held_out = {p.prompt for name in ("sheet", "single", "double") for p in sets[name]}
    assert not held_out & {p.prompt for p in sets["validation"]}
    with pytest.raises(ValueError, match="expected one of sheet"):
        pair_set("singles")


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_faces_are_held_out_people_as_they_are_drawn_now(name):
    identity, rng = identity_of(name)
    assert identity.split == "held_out"
    drawn = samples.draw_reference(rng, identity, SIZE)
    assert np.array_equal(np.asarray(Image.open(f"examples/{name}.png")), drawn)


def test_every_word_of_every_caption_is_in_the_vocabulary():
    words = {word for phrases in vocabulary().values() for phrase in phrases for word in phrase.split()}
    for recipe in (SCENES, SUBJECTS):
        for index in range(120):
            caption = make_sample(recipe, "train", index).caption.replace(MARKER, "").replace(",", " ")
            assert not set(caption.split()) - words, caption
    asked = " ".join(prompt.text for prompt in PROMPTS)
    assert not set(asked.replace(",", " ").replace("{}", "").replace("{0}", "").replace("{1}", "").split()) - words
    assert "grandmother" in person_nouns()


@pytest.mark.parametrize("style", STYLES)
def test_a_style_changes_the_whole_picture_and_keeps_what_it_shows(style):
    image = make_sample(SUBJECTS, "train", 3).image
    styled = apply_style(image, style)
    assert styled.shape == image.shape and styled.dtype == np.uint8
    assert (styled != image).any(axis=2).mean() > 0.5
    brightness = [np.corrcoef(image.mean(axis=2).ravel(), styled.mean(axis=2).ravel())[0, 1]]
    assert brightness[0] > 0.9


@pytest.mark.parametrize("place", PLACES)
def test_every_place_can_be_drawn_at_every_time_with_everything(place):
    plain = [np.asarray(draw_scene(np.random.default_rng(1), Scene(place, time), 64)) for time in TIMES]
    assert place in TIMELESS or len({p.tobytes() for p in plain}) == len(TIMES)
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
