"""The training stages by name, in the order in which they build on each other."""

from importlib import import_module

from toolkit.train.stage import Stage

_STAGES = {
    "vae": ("autoencoder", "AutoencoderStage"),
    "attributes": ("attributes", "AttributesStage"),
    "captions": ("captions", "CaptionsStage"),
    "tdm": ("tdm", "SceneModelStage"),
    "sdm": ("sdm", "SubjectModelStage"),
    "decoder": ("autoencoder", "DecoderStage"),
}
STAGES = tuple(_STAGES)


def stage_class(name: str) -> type[Stage]:
    module, cls = _STAGES[name]
    return getattr(import_module(f"{__name__}.{module}"), cls)
