"""Picture styles: how the whole picture looks, whatever it shows."""

import numpy as np

STYLES = ("black and white", "sepia", "pastel", "blueprint")

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def apply_style(image: np.ndarray, style: str | None) -> np.ndarray:
    """uint8 [H, W, 3] in the style; None leaves it as it is."""
    if style is None:
        return image
    pixels = image.astype(np.float32) / 255
    grey = (pixels @ _LUMINANCE)[..., None]
    if style == "black and white":
        styled = np.repeat(grey, 3, axis=2)
    elif style == "sepia":
        styled = grey * np.array([1.0, 0.84, 0.62], np.float32) * 0.92 + np.array([0.08, 0.05, 0.02], np.float32)
    elif style == "pastel":
        styled = 0.5 * pixels + 0.5 * np.array([1.0, 0.95, 0.98], np.float32)
    elif style == "blueprint":
        dark, light = np.array([0.06, 0.20, 0.56], np.float32), np.array([0.90, 0.96, 1.0], np.float32)
        styled = dark + (light - dark) * grey
    else:
        raise ValueError(f"unknown style {style!r}, expected one of {', '.join(STYLES)}")
    return (styled.clip(0, 1) * 255).round().astype(np.uint8)
