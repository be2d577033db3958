"""What the check draws, and the files that its stages hand on."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GIB = 2**30


@dataclass(frozen=True)
class Preset:
    """manifest: names and shapes of all tensors. memory: bytes that must be free, of the largest stage."""

    manifest: Path
    memory: int


PRESETS = {
    "sd15": Preset(ROOT / "toolkit" / "models" / "manifest.json", 16 * GIB),
    "tiny": Preset(ROOT / "toolkit" / "tests" / "manifest_tiny.json", GIB // 2),
}
SUBJECTS = [ROOT / "examples" / "alice.png", ROOT / "examples" / "bob.png"]
PROMPT = "a woman <|image|> and a man <|image|> reading in the snow at night"
OTHER_PROMPT = "two old friends, a king <|image|> and a chef <|image|>, on a sunny beach"
# PNDM, the authors' weights' default, makes five iterations of four steps: one of scene construction, two of fusion,
# two of subject enhancement. The guidance is high because random networks differ little between prompts.
REQUEST = {"seed": 11, "num_inference_steps": 4, "guidance_scale": 15.0, "start_merge_step": 0, "final_step": 2}
# Name → (prompt, reference images in its order); the first is compared with the reference pipeline's.
PICTURES = {
    "picture": (PROMPT, SUBJECTS),
    "swapped": (PROMPT, SUBJECTS[::-1]),
    "other": (OTHER_PROMPT, SUBJECTS),
}


class Files:
    """Of a work directory."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.stable_diffusion = work / "weights" / "stable-diffusion"  # tokenizer, scheduler, VAE, configurations
        self.image_encoder = work / "weights" / "image-encoder"  # its configuration
        self.sdm = work / "weights" / "SDM" / "pytorch_model.bin"
        self.tdm = work / "weights" / "TDM" / "pytorch_model.bin"
        self.family = work / "family"  # what `convert` writes
        self.reference = work / "reference"  # picture.png, latents.npy, picture.json
        self.served = work / "served"  # the family's models/ with the check's own model code
        self.latents = self.served / "latents"  # of the decoder, <n>.npy in order of pictures
        self.pictures = work / "pictures"  # <name>.png and <name>.json of the gateway
        self.run = work / "run"  # the local Triton's
        self.measured = work / "measured.json"  # stage → seconds, peak in bytes
