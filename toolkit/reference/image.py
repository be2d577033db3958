"""Pixels in and out: reference images for the image encoder, and the decoder's pictures.

Where values are rounded to 8 bits, as the released code's transforms (FastComposer's
`get_test_object_transforms`) resize uint8 tensors: on decoding, and after the resize to the
family's object resolution. The second resize, to the encoder's size, works on floats and rounds
nothing.
"""

import io

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageCms, ImageOps
from torch import Tensor
from torch.nn import functional as F

# CLIP's image statistics, of values in [0, 1]
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def object_pixels(encoded: bytes, resolution: int) -> Image.Image:
    """RGB square of the family's object resolution.

    EXIF orientation; first frame; 16 bits lose their low byte; converted to sRGB by the embedded
    profile; transparency over black, the padding's colour; padded to a square in the middle, an
    odd pixel more at the right or the bottom (the released code drops it and so stretches the
    picture by a pixel); bilinear antialiased resize in 8-bit arithmetic.
    """
    image = Image.open(io.BytesIO(encoded))
    image = _rgb(_srgb(_eight_bits(ImageOps.exif_transpose(image))))
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((resolution, resolution), Image.Resampling.BILINEAR)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Of 16-bit grey, which Pillow's own conversion clips."""
    if not image.mode.startswith("I"):
        return image
    high = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if "icc_profile" in image.info:
        high.info["icc_profile"] = image.info["icc_profile"]
    return high


def _srgb(image: Image.Image) -> Image.Image:
    """By the embedded profile, unless it is damaged, a table, or for another kind of picture."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info.get("icc_profile", b"")))
        space = profile.profile.xcolor_space.strip()
        grey = space == "GRAY" and image.mode in ("1", "L", "LA")
        table, _, _ = profile.profile.clut[ImageCms.Intent.PERCEPTUAL]
        if table or not profile.profile.is_matrix_shaper or not (grey or space == "RGB" and image.mode != "CMYK"):
            return image
        colours = image.convert("L" if grey else "RGB")
        colours = ImageCms.profileToProfile(colours, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        return image
    if image.has_transparency_data:
        colours.putalpha(image.convert("RGBA").getchannel("A"))
    return colours


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(image, mask=image.getchannel("A"))
        return black
    return image.convert("RGB")


def pixel_values(pixels: Image.Image, size: int) -> Tensor:
    """CLIP-normalised [3, size, size] of object pixels."""
    values = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
    values = F.interpolate(values, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return ((values - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))[0]


def to_picture(image: Tensor) -> Image.Image:
    """A decoder's image [3, H, W] in [-1, 1] to 8 bits, as diffusers does (half to even)."""
    return VaeImageProcessor().postprocess(image[None], output_type="pil")[0]
