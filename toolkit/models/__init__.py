"""The networks of a model family as diffusers and transformers classes.

`Family` holds one instance of each; `new_family` makes random ones, `load` and `save` read and
write a folder in Hugging Face's layout (one sub-folder a network, safetensors).
"""

from toolkit.models.autoencoder import PatchAutoencoder
from toolkit.models.family import Family, load, new_family, save
from toolkit.models.presets import MINI, TINY, Preset
from toolkit.models.subject_fuser import SubjectFuser
from toolkit.models.tokenizer import END_OF_TEXT, MARKER, write_tokenizer

__all__ = [
    "END_OF_TEXT",
    "MARKER",
    "MINI",
    "TINY",
    "Family",
    "PatchAutoencoder",
    "Preset",
    "SubjectFuser",
    "load",
    "new_family",
    "save",
    "write_tokenizer",
]
