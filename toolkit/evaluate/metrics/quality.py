"""How good the mini metrics are, on pictures of held-out people whose truth the generator knows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from toolkit.data.store import Dataset
from toolkit.evaluate.metrics.captions import Unalterable, alterations, content_of, reword
from toolkit.evaluate.metrics.mini import MiniMetrics, to_network

HARD = ("hair_colour", "skin", "glasses")  # equal in hard pairs
GALLERY = 100  # captions among which a picture's own must be found
_BATCH = 64


@dataclass(frozen=True)
class Read:
    """What the networks saw on a data set's pictures. Of each subject in order: what the generator
    knows, the reference's embedding [D], and the embedding of the face found on it, or None."""

    attributes: list[dict]
    references: np.ndarray
    faces: list[np.ndarray | None]
    detections: int  # faces found, right or wrong


@torch.no_grad()
def read(metrics: MiniMetrics, dataset: Dataset) -> Read:
    """Finds and embeds every face and every reference of a data set."""
    attributes = [subject for sample in dataset.samples for subject in sample["subjects"]]
    faces: list[np.ndarray | None] = [None] * len(attributes)
    detections = 0
    for start in range(0, len(dataset), _BATCH):
        pixels = to_network(dataset.images[start : start + _BATCH])
        for k, (_, boxes) in enumerate(metrics.find_faces(pixels), start=start):
            first = dataset.samples[k]["first_reference"]
            detections += len(boxes)
            for box in boxes:
                subject = subject_at(dataset.labels[k], box.tolist())
                if subject is not None and faces[first + subject] is None:
                    faces[first + subject] = metrics.embed(pixels[k - start : k - start + 1], box[None])[0]
    references = []
    for start in range(0, len(attributes), _BATCH):
        pixels = to_network(dataset.references[start : start + _BATCH])
        boxes = torch.stack([strongest for strongest, _ in metrics.find_faces(pixels)])
        references.append(metrics.embed(pixels, boxes))
    return Read(attributes, np.concatenate(references), faces, detections)


def subject_at(labels: np.ndarray, box: Sequence[float]) -> int | None:
    """The subject (from 0) that fills most of the middle third of a box, None if none does."""
    (x, y, side), size = box, len(labels)
    low, high = (np.clip(np.round([y + d, x + d]), 0, size - 1).astype(int) for d in (-side / 6, side / 6))
    counts = np.bincount(labels[low[0] : high[0] + 1, low[1] : high[1] + 1].ravel(), minlength=2)
    subject = int(counts[1:].argmax())
    return subject if counts[1 + subject] > counts[0] else None


@dataclass(frozen=True)
class Pairs:
    """Cosines of references with faces: of the same person, of any two, and of two alike in HARD."""

    same: np.ndarray
    different: np.ndarray
    hard: np.ndarray

    def accuracy(self, threshold: float, different: np.ndarray) -> float:
        """Share of right answers where same and different are equally likely; 0 where no face was found."""
        if not (len(self.same) and len(different)):
            return 0.0
        return float(np.mean(self.same >= threshold) + np.mean(different < threshold)) / 2

    def best_threshold(self) -> float:
        """The one that is right most often over both kinds of different pairs."""
        others = np.concatenate([self.different, self.hard])
        candidates = np.unique(np.concatenate([self.same, others]))
        return float(max(candidates, key=lambda t: self.accuracy(t, others)))


def verification_pairs(seen: Read, rng: np.random.Generator) -> Pairs:
    """One pair of each kind a subject; a face that was not found has the cosine 0, as in the metric."""
    found = [k for k, face in enumerate(seen.faces) if face is not None]
    same = [0.0 if f is None else float(r @ f) for r, f in zip(seen.references, seen.faces, strict=True)]
    different, hard = [], []
    for k, own in enumerate(seen.attributes):
        others = [o for o in found if not _alike(own, seen.attributes[o])]
        if not others:
            continue
        different.append(float(seen.references[k] @ seen.faces[rng.choice(others)]))
        near = [o for o in others if all(own[a] is not None and own[a] == seen.attributes[o][a] for a in HARD)]
        if near:
            hard.append(float(seen.references[k] @ seen.faces[rng.choice(near)]))
    return Pairs(np.array(same), np.array(different), np.array(hard))


def _alike(one: dict, other: dict) -> bool:
    """Whether two subjects may be the same person: equal in all but the noun."""
    return all(one[key] == other[key] for key in one if key != "noun")


def retrieval(metrics: MiniMetrics, dataset: Dataset) -> tuple[float, int]:
    """Share of pictures whose own caption is the nearest of GALLERY different ones, and how many
    pictures were asked for."""
    chosen = list({sample["caption"]: k for k, sample in enumerate(dataset.samples)}.values())
    right = []
    for start in range(0, len(chosen) - GALLERY + 1, GALLERY):
        index = sorted(chosen[start : start + GALLERY])
        pictures = metrics.embed_pictures(dataset.images[index])
        sentences = metrics.embed_sentences([dataset.samples[k]["caption"] for k in index])
        right += ((pictures @ sentences.T).argmax(axis=1) == np.arange(GALLERY)).tolist()
    return float(np.mean(right)) if right else float("nan"), len(right)


def caption_choice(metrics: MiniMetrics, dataset: Dataset, rng: np.random.Generator) -> dict[str, float]:
    """For each thing that a sentence may get wrong: how often the true sentence is nearer."""
    kinds: dict[str, list[tuple[int, str, str]]] = {}
    for k, sample in enumerate(dataset.samples):
        changeable = alterations(content_of(sample))
        if sample["people"] > 1:
            changeable.pop("clothes", None)
        kind = sorted(changeable)[int(rng.integers(len(changeable)))]
        try:
            kinds.setdefault(kind, []).append((k, *reword(rng, sample, kind)))
        except Unalterable:
            continue
    shares = {}
    for kind, cases in sorted(kinds.items()):
        images = [dataset.images[k] for k, _, _ in cases]
        true, false = (metrics.prompt(images, [case[which] for case in cases]) for which in (1, 2))
        shares[kind] = float(np.mean(true > false))
    return shares


def measure(metrics: MiniMetrics, held_out: Dataset, validation: Dataset, seed: int = 0) -> dict:
    """Everything that is stated of the metrics; the verification threshold comes from `validation`."""
    rng = np.random.default_rng([seed, 1])
    threshold = verification_pairs(read(metrics, validation), rng).best_threshold()
    seen = read(metrics, held_out)
    pairs = verification_pairs(seen, rng)
    found = sum(face is not None for face in seen.faces)
    top1, asked = retrieval(metrics, held_out)
    shares = caption_choice(metrics, held_out, rng)
    return {
        "detector": {
            "recall": found / len(seen.faces),
            "precision": found / max(1, seen.detections),
            "faces": len(seen.faces),
            "pictures": len(held_out),
        },
        "verification": {
            "accuracy": pairs.accuracy(threshold, pairs.different),
            "accuracy_hard_pairs": pairs.accuracy(threshold, pairs.hard),
            "hard_pairs_are_equal_in": list(HARD),
            "threshold": threshold,
            "mean_cosine": {k: float(np.mean(getattr(pairs, k))) for k in ("same", "different", "hard")},
            "pairs": {"same": len(pairs.same), "different": len(pairs.different), "hard": len(pairs.hard)},
            "chance": 0.5,
        },
        "caption_retrieval": {"top1": top1, "of": GALLERY, "pictures": asked, "chance": 1 / GALLERY},
        "true_or_false_caption": {
            "accuracy": float(np.mean(list(shares.values()))),
            "wrong_in": shares,
            "chance": 0.5,
        },
    }


def table(report: dict) -> str:
    """The report as Markdown."""
    detector, faces = report["detector"], report["verification"]
    found, choice = report["caption_retrieval"], report["true_or_false_caption"]
    rows = [
        ("heads found (recall)", detector["recall"], ""),
        ("finds that are heads (precision)", detector["precision"], ""),
        ("same or another person", faces["accuracy"], faces["chance"]),
        ("the same, alike in hair colour, skin and glasses", faces["accuracy_hard_pairs"], faces["chance"]),
        (f"own caption of {found['of']}", found["top1"], found["chance"]),
        ("true caption or one with one thing changed", choice["accuracy"], choice["chance"]),
        *((f"— {kind}", share, choice["chance"]) for kind, share in choice["wrong_in"].items()),
    ]
    lines = ["| on pictures of held-out people | right | chance |", "|---|--:|--:|"]
    lines += [f"| {what} | {share:.1%} | {chance if chance == '' else format(chance, '.0%')} |" for what, share, chance in rows]
    return "\n".join(lines)
