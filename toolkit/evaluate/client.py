"""Pictures of evaluation pairs from a running gateway, kept in a folder.

<pair>.png     as the gateway sent it
<pair>.json    prompt, seed and the answer's own object "facediffuser" (parameters, fusion, timings)
request.json   what every request of the folder had in common
"""

import base64
import io
import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np
import requests
from PIL import Image
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util.retry import Retry

from toolkit.evaluate.metrics import without_markers
from toolkit.evaluate.pairs import Pair

TIMEOUT = 600.0  # seconds for one answer
# A full queue and a Triton that is starting say when to come again; everything else is an answer.
_RETRIES = Retry(
    total=20, connect=0, read=0, other=0, status_forcelist=(429, 503), allowed_methods=None,
    respect_retry_after_header=True, backoff_factor=0.5, backoff_max=10, raise_on_status=False,
)  # fmt: skip


class GatewayError(RuntimeError):
    """The gateway cannot be reached or refuses a request; the message says what to do."""


def edit(url: str, pair: Pair, **fields: str | int | float) -> tuple[np.ndarray, dict]:
    """One picture of a pair: uint8 [height, width, 3], and the answer's own object "facediffuser".

    A pair without references is a text-only request. fields: further ones of the request
    (guidance_scale, start_merge_step, ...). Raises GatewayError.
    """
    png, details = _request(url, pair, fields)
    return _pixels(io.BytesIO(png)), details


def text_only(pair: Pair) -> Pair:
    """The pair as the text-to-image model alone is asked for it: no references, no markers."""
    return replace(pair, prompt=without_markers(pair.prompt), references=())


def collect(
    url: str,
    pairs: Sequence[Pair],
    folder: Path,
    fields: Mapping[str, str | int | float] | None = None,
    parallel: int = 2,
) -> None:
    """Asks for the pictures that `folder` lacks, `parallel` at a time.

    Raises GatewayError at the first request that fails, and for a gateway that serves other weights than
    those that made the folder's pictures; what has come so far stays. Raises ValueError if the folder holds
    pictures of other requests.
    """
    fields = dict(fields or {})
    folder.mkdir(parents=True, exist_ok=True)
    _check_request(folder / "request.json", {"fields": fields})
    weights = _Weights(folder)
    missing = [pair for pair in pairs if not _is_there(folder, pair)]
    if not missing:
        return
    with ThreadPoolExecutor(parallel) as pool:
        jobs = [pool.submit(_fetch, url, pair, folder, fields, weights) for pair in missing]
        try:
            for job in tqdm(as_completed(jobs), total=len(jobs), desc="pictures"):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _Weights:
    """Those that made a folder's pictures: the same for all."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._seen = next(
            (json.loads(path.read_text(encoding="utf-8"))["facediffuser"]["parameters"]["weights"]
             for path in sorted(folder.glob("*.json")) if path.name != "request.json"), None
        )  # fmt: skip

    def check(self, weights: str) -> None:
        """Raises GatewayError for other ones than before."""
        with self._lock:
            self._seen = self._seen or weights
            if weights != self._seen:
                raise GatewayError(
                    f"the gateway serves weights {weights}, the folder's pictures were made with {self._seen}: use another folder"
                )


def _check_request(path: Path, request: dict) -> None:
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != request:
            raise ValueError(f"{path.parent} holds pictures of {found}, not of {request}; use another folder")
    else:
        path.write_text(json.dumps(request) + "\n", encoding="utf-8")


def _is_there(folder: Path, pair: Pair) -> bool:
    path = folder / f"{pair.name}.png"
    if not path.exists():
        return False
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if (about["prompt"], about["seed"]) != (pair.prompt, pair.seed):
        raise ValueError(
            f"{path} shows {about['prompt']!r} with seed {about['seed']}, but the pair is now {pair.prompt!r} "
            f"with seed {pair.seed}; use another folder or delete this one"
        )
    return True


def _fetch(
    url: str, pair: Pair, folder: Path, fields: Mapping[str, str | int | float], weights: _Weights
) -> None:
    png, details = _request(url, pair, fields)
    weights.check(details["parameters"]["weights"])
    path = folder / f"{pair.name}.png"
    about = {"prompt": pair.prompt, "seed": pair.seed, "facediffuser": details}
    path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".part").write_bytes(png)
    os.replace(path.with_suffix(".part"), path)  # last: a picture that is there is whole


def _request(url: str, pair: Pair, fields: Mapping[str, str | int | float]) -> tuple[bytes, dict]:
    """The PNG and the answer's own object."""
    body = {"prompt": pair.prompt, "seed": pair.seed, **fields}
    files = [("image", (f"{k}.png", _png(r), "image/png")) for k, r in enumerate(pair.references, 1)]
    base = f"{url.rstrip('/')}/v1/images"
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=_RETRIES))
        session.mount("https://", HTTPAdapter(max_retries=_RETRIES))
        try:
            if files:
                answer = session.post(f"{base}/edits", data=body, files=files, timeout=TIMEOUT)
            else:
                answer = session.post(f"{base}/generations", json=body, timeout=TIMEOUT)
        except requests.Timeout as error:
            raise GatewayError(f"{url} did not answer within {TIMEOUT:.0f} s for {pair.name}: {error}") from error
        except requests.RequestException as error:
            raise GatewayError(f"no gateway answers at {url} (start one with `make run`): {error}") from error
    if answer.status_code != 200:
        raise GatewayError(f"{url} refuses {pair.name} ({pair.prompt!r}) with {answer.status_code}: {_reason(answer)}")
    try:
        parsed = answer.json()
        png = base64.b64decode(parsed["data"][0]["b64_json"], validate=True)
        _pixels(io.BytesIO(png))
        return png, parsed["facediffuser"]
    except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise GatewayError(f"{url} is no Face-Diffuser gateway, its answer holds no picture: {error!r}") from error


def _pixels(source: Path | io.BytesIO) -> np.ndarray:
    with Image.open(source) as picture:
        return np.asarray(picture.convert("RGB"))


def _png(image: np.ndarray) -> bytes:
    body = io.BytesIO()
    Image.fromarray(image).save(body, "PNG")
    return body.getvalue()


def _reason(answer: requests.Response) -> str:
    """The message of the gateway's error object, or the beginning of whatever came."""
    try:
        return answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]


def read_pictures(folder: Path, pairs: Sequence[Pair]) -> list[np.ndarray]:
    """uint8 [height, width, 3] of <pair name>.png for every pair; FileNotFoundError names what is missing."""
    paths = [folder / f"{pair.name}.png" for pair in pairs]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing[:3])}{more}; it must hold one PNG a pair, named <pair name>.png"
        )
    return [_pixels(path) for path in paths]
