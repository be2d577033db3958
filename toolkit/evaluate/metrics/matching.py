"""Which face of a picture is which reference's."""

import numpy as np

from toolkit.evaluate.metrics import IdentityScore


def score_faces(references: np.ndarray, faces: np.ndarray) -> IdentityScore:
    """Scores a picture from unit embeddings, references [R, D] and the picture's faces [F, D].

    faces stand in the order of their size: of more faces than references only the R largest are
    looked at, so that a small double in the background neither helps nor harms. FastComposer
    fills missing faces with black squares and embeds those; here a missing face scores 0.
    """
    count = len(references)
    cosines = references @ faces[:count].T if len(faces) else np.zeros((count, 0))
    matched = match(cosines)
    swapped = tuple(_cosine(cosines, k, matched[1 - k]) for k in range(2)) if count == 2 else ()
    return IdentityScore(tuple(_cosine(cosines, k, face) for k, face in enumerate(matched)), swapped, len(faces))


def match(cosines: np.ndarray) -> list[int | None]:
    """The face (column) of every reference (row): the highest cosine first, no face twice; None
    where no face is left."""
    matched: list[int | None] = [None] * cosines.shape[0]
    taken: set[int] = set()
    for flat in np.argsort(-cosines, axis=None, kind="stable"):
        reference, face = divmod(int(flat), cosines.shape[1])
        if matched[reference] is None and face not in taken:
            matched[reference] = face
            taken.add(face)
    return matched


def _cosine(cosines: np.ndarray, reference: int, face: int | None) -> float:
    return 0.0 if face is None else float(cosines[reference, face])
