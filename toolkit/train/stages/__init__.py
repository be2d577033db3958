"""The training stages by name."""

from importlib import import_module

# stage -> (module, class); a class is called with (family, datasets)
_STAGES = {
    "vae": ("autoencoder", "AutoencoderStage"),
    "attributes": ("attributes", "AttributesStage"),
    "tdm": ("tdm", "SceneModelStage"),
    "sdm": ("sdm", "SubjectModelStage"),
    "decoder": ("autoencoder", "DecoderStage"),
}


def stage_class(name: str):
    module, cls = _STAGES[name]
    return getattr(import_module(f"{__name__}.{module}"), cls)
