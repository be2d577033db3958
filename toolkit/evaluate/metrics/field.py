"""The metrics of the field, for photographs: MTCNN and FaceNet for identity, CLIP ViT-L/14 for the prompt.

The networks and settings are those of FastComposer's evaluation. Nothing is downloaded; the folder
given to load() holds

    20180402-114759-vggface2.pt    FaceNet (InceptionResnetV1 on VGGFace2), as facenet-pytorch publishes it
    clip-vit-large-patch14/        CLIP ViT-L/14 in Hugging Face's layout (openai/clip-vit-large-patch14)

MTCNN's weights are inside the facenet-pytorch package. Runs on a GPU where there is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import MTCNN, InceptionResnetV1
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPProcessor

from toolkit.evaluate.metrics import IdentityScore, without_markers
from toolkit.evaluate.metrics.matching import score_faces

FACENET = "20180402-114759-vggface2.pt"
CLIP = "clip-vit-large-patch14"
_BATCH = 32


@dataclass
class FieldMetrics:
    """Implements toolkit.evaluate.metrics.Metrics for pictures of any size."""

    detector: MTCNN
    embedder: InceptionResnetV1
    clip: CLIPModel
    processor: CLIPProcessor
    device: torch.device

    @staticmethod
    def load(folder: Path) -> "FieldMetrics":
        """Raises FileNotFoundError that names what the folder lacks."""
        folder = Path(folder)
        missing = [name for name in (FACENET, f"{CLIP}/config.json") if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {' and '.join(missing)}; it must hold {FACENET} and {CLIP}/")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        embedder = InceptionResnetV1()
        state = torch.load(folder / FACENET, map_location="cpu", weights_only=True)
        # The published file also holds the classifier of the training identities.
        embedder.load_state_dict({k: v for k, v in state.items() if not k.startswith("logits.")})
        return FieldMetrics(
            # FastComposer's settings; faces come largest first.
            detector=MTCNN(image_size=160, margin=0, min_face_size=20, thresholds=[0.6, 0.7, 0.7], factor=0.709,
                           post_process=True, select_largest=True, keep_all=True, device=device),
            embedder=embedder.eval().to(device),
            clip=CLIPModel.from_pretrained(folder / CLIP, local_files_only=True).eval().to(device),
            processor=CLIPProcessor.from_pretrained(folder / CLIP, local_files_only=True),
            device=device,
        )  # fmt: skip

    def identity(self, image: np.ndarray, references: Sequence[np.ndarray]) -> IdentityScore:
        if not references:
            raise ValueError("identity needs at least one reference")
        wanted = []
        for number, reference in enumerate(references, 1):
            faces = self.find_faces(reference)
            if not len(faces):
                raise ValueError(f"MTCNN finds no face on reference {number} of {len(references)}; give a clear portrait")
            wanted.append(self.embed(faces[:1])[0])
        return score_faces(np.stack(wanted), self.embed(self.find_faces(image)))

    @torch.no_grad()
    def prompt(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} pictures and {len(prompts)} prompts; there must be one prompt a picture")
        cosines = [np.zeros(0)]
        for start in range(0, len(images), _BATCH):
            inputs = self.processor(
                images=[Image.fromarray(image) for image in images[start : start + _BATCH]],
                text=[without_markers(prompt) for prompt in prompts[start : start + _BATCH]],
                padding=True,
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            outputs = self.clip(**inputs)
            cosines.append(F.cosine_similarity(outputs.image_embeds, outputs.text_embeds).double().cpu().numpy())
        return np.concatenate(cosines)

    def find_faces(self, image: np.ndarray) -> Tensor:
        """Normalised crops [F, 3, 160, 160], largest first."""
        faces = self.detector(Image.fromarray(image))
        return torch.zeros(0, 3, 160, 160) if faces is None else faces

    @torch.no_grad()
    def embed(self, faces: Tensor) -> np.ndarray:
        """Unit embeddings [F, 512]."""
        return self.embedder(faces.to(self.device)).cpu().numpy() if len(faces) else np.zeros((0, 512), np.float32)
