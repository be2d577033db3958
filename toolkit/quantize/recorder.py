"""Inputs of both UNets as real pictures feed them.

Pictures are asked for in every way that requests are, since each shows the UNets other steps: with the family's
stage bounds, with those of each `input_fidelity`, and without subjects, where the TDM goes through the whole
schedule. Of the calls that a picture makes, one is kept from each of k equal parts, so that the rows of a few
pictures cover all timesteps and stages.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from toolkit.quantize import UNETS
from toolkit.quantize.prompts import text_only
from toolkit.quantize.rows import Rows
from toolkit.reference.networks import Networks
from toolkit.reference.pipeline import Pipeline, Request


class Recorder:
    """Networks that remember what the UNets are fed. No picture is decoded: nobody looks at it."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._calls = {name: [] for name in UNETS}

    def __getattr__(self, name: str):
        return getattr(self._networks, name)

    def unet(self, name: str, latents: Tensor, timestep: float, base: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        call = {
            "sample": torch.stack([latents, latents]),
            "timestep": torch.full((2,), timestep),
            "encoder_hidden_states": torch.stack([base, cond]),
        }
        self._calls[name].append({key: value.numpy() for key, value in call.items()})
        return self._networks.unet(name, latents, timestep, base, cond)

    def vae_decoder(self, latents: Tensor) -> Tensor:
        return torch.zeros(3, 8, 8)

    def take(self) -> dict[str, list[Rows]]:
        """The calls since the last time, in order; each of two rows."""
        calls, self._calls = self._calls, {name: [] for name in UNETS}
        return calls


def ways(family: dict) -> list[dict | None]:
    """Defaults that a picture's stage bounds come from, in turn; None = without subjects.

    family: of pipeline.json."""
    return [{}, *family.get("input_fidelity", {}).values(), None]


def record(pipeline: Pipeline, requests: Sequence[Request], pictures: int, rows: int, seed: int) -> dict[str, Rows]:
    """`rows` (even) of each UNet from `pictures` pictures of the requests in turn; fewer where they make fewer calls.

    pipeline: its networks are a Recorder.
    """
    rng = np.random.default_rng(seed)
    family, found = pipeline.family, ways(pipeline.family)
    turns = [(k % len(requests), (k + k // len(requests)) % len(found)) for k in range(pictures)]
    using = {
        "unet_tdm": [True] * pictures,
        "unet_sdm": [bool(requests[r].subjects) and found[w] is not None for r, w in turns],
    }
    quotas = {name: iter(_shares(rows // 2, sum(uses))) for name, uses in using.items()}
    kept: dict[str, list[Rows]] = {name: [] for name in UNETS}
    for k, (r, w) in enumerate(tqdm(turns, desc="pictures")):
        request = requests[r] if found[w] is not None else text_only(requests[r])
        pipeline.family = {**family, "defaults": {**family["defaults"], **(found[w] or {})}}
        pipeline.generate(replace(request, seed=seed + k))
        for name, calls in pipeline.networks.take().items():
            if using[name][k]:
                kept[name] += [calls[i] for i in _spread(len(calls), next(quotas[name]), rng)]
    pipeline.family = family
    return {name: _join(calls) for name, calls in kept.items() if calls}


def _shares(total: int, parts: int) -> list[int]:
    """total in whole parts that differ by one at most."""
    return np.diff(np.arange(parts + 1) * total // max(parts, 1)).tolist()


def _spread(calls: int, wanted: int, rng: np.random.Generator) -> list[int]:
    """Indices below `calls`, one from each of `wanted` equal parts."""
    count = min(calls, wanted)
    return np.floor((np.arange(count) + rng.random(count)) * calls / max(count, 1)).astype(int).tolist()


def _join(calls: Sequence[Rows]) -> Rows:
    return {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
