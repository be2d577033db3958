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


def turns(family: dict, requests: Sequence[Request], pictures: int) -> list[tuple[Request, dict]]:
    """What each picture shows, and the defaults of pipeline.json (`family`) that its stage bounds come from."""
    ways = [{}, *family.get("input_fidelity", {}).values(), None]
    found = []
    for k in range(pictures):
        round_, number = divmod(k, len(requests))
        # a round later, so that a prompt that comes again comes in another way
        way, request = ways[(k + round_) % len(ways)], requests[number]
        found.append((text_only(request) if way is None else request, {**family["defaults"], **(way or {})}))
    return found


def record(pipeline: Pipeline, requests: Sequence[Request], pictures: int, rows: int, seed: int) -> dict[str, Rows]:
    """`rows` (even) of each UNet from `pictures` pictures, some of subjects; fewer where those make fewer calls.

    pipeline: its networks are a Recorder.
    """
    rng, family = np.random.default_rng(seed), pipeline.family
    asked = turns(family, requests, pictures)
    calling = {"unet_tdm": pictures, "unet_sdm": sum(bool(request.subjects) for request, _ in asked)}
    shares = {name: iter(_shares(rows // 2, count)) for name, count in calling.items()}
    kept: dict[str, list[Rows]] = {name: [] for name in UNETS}
    for k, (request, defaults) in enumerate(tqdm(asked, desc="pictures")):
        pipeline.family = {**family, "defaults": defaults}
        pipeline.generate(replace(request, seed=seed + k))
        for name, calls in pipeline.networks.take().items():
            if calls:
                kept[name] += [calls[i] for i in _spread(len(calls), next(shares[name]), rng)]
    pipeline.family = family
    return {name: _join(calls) for name, calls in kept.items()}


def _shares(total: int, parts: int) -> list[int]:
    """total in whole parts that differ by one at most."""
    return np.diff(np.arange(parts + 1) * total // parts).tolist()


def _spread(calls: int, wanted: int, rng: np.random.Generator) -> list[int]:
    """Indices below `calls`, one from each of `wanted` equal parts."""
    count = min(calls, wanted)
    return np.floor((np.arange(count) + rng.random(count)) * calls / max(count, 1)).astype(int).tolist()


def _join(calls: Sequence[Rows]) -> Rows:
    return {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
