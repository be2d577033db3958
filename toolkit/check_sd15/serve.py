"""The pictures of the gateway and a Triton of its own, of the family that was converted."""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import requests

from toolkit.check_sd15.case import PICTURES, REQUEST, ROOT, Files
from toolkit.errors import InputError

PROGRAM = ROOT / "bin" / "facediffuser"
MODEL_CODE = Path(__file__).with_name("triton_model.py")
# A pair of rows takes some ten seconds on idle cores, and minutes beside other work.
DEADLINES = ["--step-timeout", "30m", "--request-timeout", "1h"]
START = 1800  # seconds; a gateway waits for ever for models that do not fit, since others may put them right


def draw(files: Files) -> None:
    """Raises InputError if the gateway does not start or refuses a request."""
    if not PROGRAM.exists():
        raise InputError(f"{PROGRAM} is missing: make build venv")
    _copy(files)
    files.pictures.mkdir(exist_ok=True)
    with _gateway(files) as url:
        for name, (prompt, subjects) in PICTURES.items():
            print(f"{name}: {prompt} ({', '.join(path.stem for path in subjects)})", flush=True)
            answer = _ask(url, prompt, subjects)
            (files.pictures / f"{name}.png").write_bytes(base64.b64decode(answer["data"][0].pop("b64_json")))
            (files.pictures / f"{name}.json").write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


def _copy(files: Files) -> None:
    """The family for the CPU, its files linked, with the check's model code."""
    shutil.rmtree(files.served, ignore_errors=True)
    others = shutil.ignore_patterns("onnxruntime", "tensorrt", "optional")
    shutil.copytree(files.family, files.served, symlinks=True, copy_function=os.link, ignore=others)
    for code in files.served.glob("models/*/1/model.py"):
        code.unlink()  # a link to the family's own
        shutil.copyfile(MODEL_CODE, code)
    files.latents.mkdir()


@contextlib.contextmanager
def _gateway(files: Files) -> Iterator[str]:
    """Its address, once every network is loaded."""
    files.run.mkdir(exist_ok=True)
    places = ["--listen", "127.0.0.1:0", "--family", files.served, "--run-dir", files.run]
    command = [PROGRAM, "serve", *places, *DEADLINES]
    log = files.run / "gateway.log"
    with open(log, "w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
    patience = threading.Timer(START, process.terminate)
    patience.start()
    try:
        url = next((found[0] for line in process.stdout if (found := re.search(r"http://\S+:\d+", line))), None)
        patience.cancel()
        if url is None:
            last = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-5:])
            raise InputError(f"the gateway was not ready within {START} s, or ended before (log: {log}):\n{last}")
        yield url
    finally:
        patience.cancel()
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        process.wait()


def _ask(url: str, prompt: str, subjects: list[Path]) -> dict:
    pictures = [f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" for path in subjects]
    body = {"prompt": prompt, "images": [{"image_url": picture} for picture in pictures], **REQUEST}
    answer = requests.post(f"{url}/v1/images/edits", json=body, timeout=3700)
    if answer.status_code != 200:
        raise InputError(f"the gateway answers {answer.status_code}: {answer.text[:500]}")
    return answer.json()
