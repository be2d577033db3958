"""The report: choices, caches, the reference's shortcuts, and the page.

Scores of pictures are made up where only the page or the arithmetic is under test; what draws is real.
"""

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.data.held_out import GROUPS
from toolkit.evaluate import statistics
from toolkit.evaluate.metrics import IdentityScore
from toolkit.evaluate.pairs import Pair
from toolkit.models import TINY
from toolkit.reference.pipeline import Pipeline
from toolkit.reference.prompt import encode
from toolkit.report import agreement, examples, scores
from toolkit.report.choice import Choices, choose
from toolkit.report.claims import PAIRS, claims
from toolkit.report.measure import Bench, Folders, MeasuringError, pictures_planned
from toolkit.report.page import markdown, page
from toolkit.report.pictures import Album, ReferenceArtist, Remembering, as_request
from toolkit.report.results import agreement_pairs, load
from toolkit.report.rows import FULL, ROWS, SETS, Parameters
from toolkit.report.scores import Basis, Score, StaleError
from toolkit.tests.test_reference import tiny_pipeline

BASIS = Basis("a" * 64, "b" * 64)
BY_NAME = {row.name: row for row in ROWS}
SHORT = {"num_inference_steps": 5}  # of the loops that tests run


def pair(number: int, subjects: int = 1, group: str = "context") -> Pair:
    noise = np.random.default_rng(number)
    references = tuple(noise.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(subjects))
    people = ("a woman <|image|>", "a man <|image|>")[:subjects]
    name = f"pair-{number:03d}"
    return Pair(name, name, (), references, f"{' and '.join(people)} in the snow", group, {}, number)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals are tested where they are computed."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)


def score(identity: float = 0.7, prompt: float = 0.3, **options) -> Score:
    given = {"pair": "p", "person": "p", "group": "context", "seed": 1, "seconds": 1.0, "digest": "d"} | options
    own = given.pop("own", (identity,))
    return Score(match=IdentityScore(own, given.pop("swapped", ()), len(own)), prompt=prompt, **given)


# Choices


def test_the_largest_harmonic_mean_is_chosen():
    weak, strong = Parameters(3.0, 5, 15), Parameters(3.0, 10, 20)
    choice = choose(BY_NAME[FULL], {weak: [score(0.9, 0.1)] * 4, strong: [score(0.5, 0.4)] * 4})
    assert choice.parameters == strong and choice.harmonic_mean == pytest.approx(2 * 0.5 * 0.4 / 0.9, abs=1e-3)
    assert (choice.points, choice.pairs) == (2, 4)


def test_the_scene_model_is_not_chosen_by_the_faces_of_strangers():
    lucky, follows = Parameters(2.0), Parameters(5.0)
    measured = {lucky: [score(0.2, 0.4)], follows: [score(0.1, 0.45)]}
    assert choose(BY_NAME["tdm_only"], measured).parameters == follows
    assert choose(BY_NAME["sdm_only"], measured).parameters == lucky


def test_ties_go_to_fewer_steps_of_the_subject_model_then_to_less_guidance():
    early, late, guided = Parameters(3.0, 2, 20), Parameters(3.0, 15, 20), Parameters(5.0, 15, 20)
    same = {early: [score(0.7001)], late: [score(0.7)], guided: [score(0.7)]}
    assert choose(BY_NAME[FULL], same).parameters == late
    assert [p.sdm_steps for p in same] == [47, 34, 34]
    assert (Parameters(3.0).sdm_steps, Parameters(3.0, -1, -1).sdm_steps) == (0, 50)


def test_choices_are_kept_for_one_set_of_networks(tmp_path):
    path = tmp_path / "choices.json"
    choice = choose(BY_NAME["sdm_delayed"], {Parameters(3.0, -1, -1, alpha=0.6): [score()]})
    Choices(path, "w", "m").write("sdm_delayed", choice)
    Choices(path, "w", "m").write("full", choice)
    assert Choices(path, "w", "m").read() == {"full": choice, "sdm_delayed": choice}
    with pytest.raises(StaleError, match="weights_sha256 w, not other"):
        Choices(path, "other", "m").read()
    Choices(path, "other", "m").write("full", choice)
    assert list(Choices(path, "other", "m").read()) == ["full"]


def test_sweeps_hold_the_papers_bounds_and_always_some_fusion():
    full = BY_NAME[FULL]
    points = full.points(full.start, full.sweeps[0])
    assert all(p.start_merge_step < p.final_step for p in points) and len(points) == 15
    assert Parameters(3.0, 15, 30) in points and full.start in points
    for row in ROWS:
        for point in row.points(row.start, row.sweeps[-1]):
            assert Parameters.parse(str(point)) == point


# Caches


def test_scores_survive_the_file(tmp_path):
    one = score(0.7123, 0.3, own=(0.7123,))
    two = score(own=(0.5, 0.6), swapped=(0.1, -0.2), prompt=0.25)
    lost = score(own=(-0.1,))
    scores.write(tmp_path / "x.csv", [one, two, lost])
    assert scores.read(tmp_path / "x.csv") == [one, two, lost]
    assert [s.identity for s in (one, two, lost)] == [0.7123, 0.5, 0.0]


@pytest.mark.parametrize(
    "changed",
    [
        {"basis": Basis("c" * 64, BASIS.metrics)},
        {"basis": Basis(BASIS.weights, "c" * 64)},
        {"parameters": Parameters(3.5, 5, 15)},
        {"pair": replace(pair(1), seed=9)},
        {"pair": replace(pair(1), prompt="a woman <|image|>")},
        {"pair": replace(pair(1), references=pair(2).references)},
        {"row": BY_NAME["fusion_average"]},
        {"where": "gateway"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_score_of_anything_else_is_stale(tmp_path, changed):
    facts = {
        "basis": BASIS,
        "row": BY_NAME[FULL],
        "parameters": Parameters(3.0, 5, 15),
        "pair": pair(1),
        "where": "reference",
    }

    def digest(basis, **rest):
        return basis.score(**rest)

    scores.write(tmp_path / "x.csv", [score(digest=digest(**facts))])
    assert scores.read_fresh(tmp_path / "x.csv", [digest(**facts)])
    with pytest.raises(StaleError, match="1 pictures, of which 0 are of the 1"):
        scores.read_fresh(tmp_path / "x.csv", [digest(**facts | changed)])


class Brightness:
    """Stands in for the metric networks: tells pictures apart and nothing else."""

    def identity(self, image, references):
        return IdentityScore((float(image.mean()) / 255,) * len(references), (), 1)

    def prompt(self, images, prompts):
        return np.array([image.std() / 255 for image in images])


class Counting:
    """An artist that counts its pictures, and drops its pen at one of them."""

    where = "reference"

    def __init__(self, artist, breaks_at=None):
        self.artist, self.breaks_at, self.drawn = artist, breaks_at, 0

    def draw(self, row, pair, points):
        for picture in self.artist.draw(row, pair, points):
            self.drawn += 1
            if self.drawn == self.breaks_at:
                raise KeyboardInterrupt
            yield picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("family")


@pytest.fixture(scope="module")
def pipeline(folder):
    torch.set_num_threads(1)
    return tiny_pipeline(folder)


@pytest.fixture(scope="module")
def artist(folder, pipeline):
    return ReferenceArtist(folder, pipeline.networks)


def bench(folder: Path, reference, basis: Basis = BASIS, **options) -> Bench:
    said = []
    made = Bench(
        Folders(folder / "out"),
        Album(folder / "pictures"),
        basis,
        Brightness(),
        reference,
        None,
        say=said.append,
        **options,
    )
    made.said = said
    return made


@pytest.fixture
def row():
    start = replace(Parameters(3.0, 0, 2), **SHORT)
    sweeps = ({"start_merge_step": (-1, 0), "final_step": (0, 2)}, {"guidance_scale": (3.0, 5.0)})
    return replace(BY_NAME[FULL], start=start, sweeps=sweeps, gateway=False)


def files(folder: Path) -> dict[str, str]:
    """The cached files without the times in them."""
    texts = {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*.csv"))}
    return {name: re.sub(r",[\d.]+,(?=\w{12}$)", ",", text, flags=re.MULTILINE) for name, text in texts.items()}


def test_a_sweep_that_was_cut_goes_on_and_ends_the_same(tmp_path, artist, row):
    pairs = [pair(1), pair(2, subjects=2), pair(3)]
    whole = bench(tmp_path / "whole", Counting(artist), workers=1)
    choice = whole.choose(row, pairs)
    # three points with fusion, then the other guidance around the best: four of them on three pairs
    assert whole.reference.drawn == 12 <= pictures_planned([row], 3, 0) and len(files(tmp_path / "whole")) == 4

    cut = bench(tmp_path / "cut", Counting(artist, breaks_at=5), workers=1)
    with pytest.raises(KeyboardInterrupt):
        cut.choose(row, pairs)
    kept = len(list((tmp_path / "cut").rglob("*.png")))
    assert 4 <= kept < 9 and not files(tmp_path / "cut")
    again = bench(tmp_path / "cut", Counting(artist), workers=2)
    assert again.choose(row, pairs) == choice
    assert again.reference.drawn == 12 - kept
    assert files(tmp_path / "cut") == files(tmp_path / "whole") and not again.said

    third = bench(tmp_path / "cut", Counting(artist))
    assert third.choose(row, pairs) == choice and third.reference.drawn == 0


def test_other_weights_are_measured_again_and_say_so(tmp_path, artist, row):
    pairs = [pair(1), pair(2)]
    first = bench(tmp_path, Counting(artist))
    first.tabulate(row, "single", row.start, pairs)
    second = bench(tmp_path, Counting(artist), Basis("f" * 64, BASIS.metrics))
    second.tabulate(row, "single", row.start, pairs)
    assert second.reference.drawn == 2 and "measuring it again" in second.said[0]
    # another metric network scores the same pictures again and draws none
    third = bench(tmp_path, Counting(artist), Basis("f" * 64, "e" * 64))
    third.tabulate(row, "single", row.start, pairs)
    assert third.reference.drawn == 0 and len(third.said) == 1


def test_points_that_the_sweeps_do_not_come_by_are_removed(tmp_path, artist, row):
    measured = bench(tmp_path, artist)
    stray = measured.folders.point(row, replace(row.start, guidance_scale=9.0))
    scores.write(stray, [score()])
    measured.choose(row, [pair(1)])
    assert not stray.exists() and "removing" in measured.said[0]


def test_rows_of_the_gateway_need_one(tmp_path, artist):
    with pytest.raises(MeasuringError, match="start one"):
        bench(tmp_path, artist).tabulate(BY_NAME[FULL], "single", BY_NAME[FULL].start, [pair(1)])


# What draws


def test_remembered_steps_change_no_bit_and_save_calls(folder, pipeline, row):
    calls = []

    class Counted:
        def __getattr__(self, name):
            network = getattr(pipeline.networks, name)
            return (lambda *inputs: calls.append(name) or network(*inputs)) if callable(network) else network

    one = pair(2, subjects=2)
    points = [replace(row.start, start_merge_step=s, final_step=f) for s, f in ((-1, 1), (0, 1), (0, 3))]
    plain = [pipeline.generate(as_request(one, point)).latents for point in points]
    remembering = Pipeline(folder, Remembering(Counted()))
    for point, latents in zip(points, plain, strict=True):
        assert torch.equal(remembering.generate(as_request(one, point)).latents, latents)
    # The plans take 7, 6 and 8 calls. All ask the scene model about the initial noise; the last two share
    # the fusion after it too and, where one goes on to fuse and the other does not, the subject model's part.
    assert calls.count("unet") == 7 + 6 + 8 - (1 + 1 + 2 + 1) and calls.count("image_encoder") == 2


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_every_row_draws(artist, name):
    row = BY_NAME[name]
    bounds = {} if row.start.start_merge_step in (None, -1) else {"start_merge_step": 0, "final_step": 2}
    (picture,) = artist.draw(row, pair(2, subjects=2), [replace(row.start, **SHORT, **bounds)])
    assert picture.size == (TINY.image_size, TINY.image_size)


def test_the_scene_model_is_told_the_same_sentence_and_nobody(pipeline):
    one = replace(pair(2, subjects=2), prompt="a woman <|image|> and a man <|image|>, in the snow")
    asked = BY_NAME["tdm_only"].asked(one)
    assert asked.prompt == "a woman and a man, in the snow" and asked.references == ()
    assert encode(pipeline.tokenizer, asked.prompt).input_ids == encode(pipeline.tokenizer, one.prompt).input_ids
    assert BY_NAME["sdm_only"].asked(one) == one


# The page


@pytest.fixture(scope="module")
def sets():
    """Pairs of which the first eight of a set have two of each group."""
    return {
        "validation": [pair(n, 1 + n % 2, GROUPS[n % 4]) for n in range(6)],
        "single": [pair(100 + n, 1, GROUPS[n % 4]) for n in range(PAIRS["single"])],
        "double": [pair(400 + n, 2, GROUPS[n % 4]) for n in range(PAIRS["double"])],
    }


# (identity, prompt) around which made-up scores lie: the full method is best in both, then a weak one
GOOD = {"tdm_only": (0.2, 0.4), "sdm_only": (0.7, 0.2), FULL: (0.7, 0.4)}
WEAK = GOOD | {FULL: (0.6, 0.35), "sdm_delayed": (0.7, 0.4)}


def invent(folder: Path, sets, means, seed: int = 0) -> Folders:
    """Everything that a whole run leaves, with made-up scores."""
    folders, noise = Folders(folder), np.random.default_rng(seed)

    def invented(pairs, row, parameters, where):
        made = []
        for one in pairs:
            identity, prompt = np.array(means.get(row.name, (0.5, 0.3))) + noise.normal(0, 0.02, 2)
            own = (identity,) * len(one.references)
            swapped = (identity - (0.3 if row.name == FULL and means is GOOD else noise.normal(0, 0.3)),) * 2
            digest = BASIS.score(row, parameters, one, where)
            made.append(
                score(pair=one.name, person=one.person, group=one.group, seed=one.seed, own=own, swapped=swapped * (len(own) == 2),
                      prompt=prompt, seconds=1.2, digest=digest)
            )  # fmt: skip
        return made

    for row in ROWS:
        measured, best = {}, row.start
        for sweep in row.sweeps:
            for point in row.points(best, sweep):
                path = folders.point(row, point)
                if point not in measured:
                    scores.write(path, invented(sets["validation"], row, point, "reference"))
                    measured[point] = scores.read(path)
            choice = choose(row, measured)
            best = choice.parameters
        Choices(folders.choices, BASIS.weights, BASIS.metrics).write(row.name, choice)
        for name in SETS:
            scores.write(folders.row(row, name), invented(sets[name], row, choice.parameters, row.where))
        if row.name == FULL:
            gaps = [
                agreement.Difference(one.name, one.seed, 1 if means is GOOD else 9, 0.01, 0.0, 0.001, 2.0,
                                     agreement.digest(row, choice.parameters, one, BASIS))
                for one in agreement_pairs(sets)
            ]  # fmt: skip
            agreement.write(folders.agreement, gaps)
    choices = Choices(folders.choices, BASIS.weights, BASIS.metrics).read()
    for name in SETS:
        rows = [(row, choices[row.name].parameters) for row in ROWS]
        examples.write(folders.examples(name), sets[name], rows, BASIS, lambda *_: Image.new("RGB", (8, 8), "teal"))
    return folders


@pytest.fixture(scope="module")
def good(tmp_path_factory, sets):
    return invent(tmp_path_factory.mktemp("good"), sets, GOOD)


def test_claims_hold_where_they_do(good, sets):
    results = load(good, BASIS, sets)
    assert not results.missing
    assert all(claim.holds for claim in claims(results)) and len(claims(results)) == 10
    kept = next(c for c in claims(results) if "SDM only's identity" in c.text)
    assert re.match(r"(99|100|101)\.\d% \(0\.\d+ of 0\.\d+\)", kept.measured)


def test_claims_fail_where_they_do_not(tmp_path, sets):
    found = {claim.text: claim for claim in claims(load(invent(tmp_path, sets, WEAK), BASIS, sets))}
    failed = [text for text, claim in found.items() if claim.holds is False]
    assert sum("keeps at least" in text for text in failed) == 4
    best = next(found[text] for text in failed if text.startswith("one subject") and "best harmonic" in text)
    assert "closest: SDM, delayed subjects, -0." in best.measured
    assert any("own reference" in text for text in failed) and any("no pixel" in text for text in failed)


class Links(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("link", "script", "iframe", "object"):
            self.loads.append(tag)
        if tag in ("img", "image"):
            self.loads.append(given.get("src") or given.get("href") or given.get("xlink:href"))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_holds_everything_and_loads_nothing(good, sets):
    html = page(load(good, BASIS, sets), BASIS.weights)
    parsed = Links(html)
    assert parsed.loads and all(link.startswith("data:image/") for link in parsed.loads)
    text = "".join(parsed.texts)
    assert "10 of 10 claims hold" in text and "not measured" not in text
    for row in ROWS:
        assert row.title in text and row.about in text
    # 2 scatter plots, 2 of groups, people apart, 4 of bounds, guidance, alpha
    assert html.count("<svg role=") == 11 and "currentColor" in html and "#010203" not in html
    hours = load(good, BASIS, sets).hours
    assert f"{hours:.1f} hours" in text and hours == pytest.approx(1.2 * written_scores(good) / 3600 + 20 * 2 / 3600)
    assert page(load(good, BASIS, sets), BASIS.weights) == html


def written_scores(folders: Folders) -> int:
    tables = [p for p in folders.out.rglob("*.csv") if p != folders.agreement]
    return sum(len(p.read_text().splitlines()) - 1 for p in tables)


def test_a_page_of_half_a_run_names_what_is_missing(tmp_path, sets, good):
    shutil.copytree(good.out, tmp_path / "half")
    half = Folders(tmp_path / "half")
    for path in (half.row(BY_NAME[FULL], "double"), half.agreement, *half.out.glob("examples/double.*")):
        path.unlink()
    results = load(half, BASIS, sets)
    assert results.missing == ["rows/full-double.csv", "rows/agreement.csv", "examples/double.webp"]
    assert "rows/full-double.csv" in page(results, BASIS.weights)
    unknown = [claim for claim in claims(results) if claim.holds is None]
    assert len(unknown) == 6 and all(claim.measured in ("not measured yet", "0 pairs") for claim in unknown)
    assert page(load(Folders(tmp_path / "nothing"), BASIS, sets), BASIS.weights)


def test_a_page_never_mixes_weights(good, sets):
    with pytest.raises(StaleError, match="measure again"):
        load(good, Basis("c" * 64, BASIS.metrics), sets)
    other = sets | {"single": [replace(one, seed=one.seed + 1) for one in sets["single"]]}
    with pytest.raises(StaleError, match="200 pictures, of which 0"):
        load(good, BASIS, other)


def test_a_choice_that_the_sweeps_do_not_make_is_refused(tmp_path, sets, good):
    shutil.copytree(good.out, tmp_path / "edited")
    edited = Folders(tmp_path / "edited")
    choices = Choices(edited.choices, BASIS.weights, BASIS.metrics)
    found = choices.read()[FULL]
    choices.write(FULL, replace(found, parameters=replace(found.parameters, guidance_scale=19.0)))
    with pytest.raises(StaleError, match="guidance_scale=19.* of full, but its sweeps say"):
        load(edited, BASIS, sets)


def test_sweeps_that_are_not_there_are_named(tmp_path, sets, good):
    shutil.copytree(good.out, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "sweeps" / "sdm_only")
    missing = load(Folders(tmp_path / "half"), BASIS, sets).missing
    assert len(missing) == 4 and all(name.startswith("sweeps/sdm_only/guidance_scale=") for name in missing)


def test_examples_are_the_first_of_each_group(sets):
    chosen = examples.first_of_groups(sets["single"])
    assert [one.group for one in chosen] == [group for group in GROUPS for _ in range(2)]
    assert [one.seed for one in chosen] == [100, 104, 101, 105, 102, 106, 103, 107]


def test_the_cards_table_names_the_sets(good, sets):
    text = markdown(load(good, BASIS, sets))
    assert re.search(r"Face-Diffuser \(SNF\) .*\*\*0\.\d{3} \[", text) and "two subjects, 100 held-out pairs" in text
