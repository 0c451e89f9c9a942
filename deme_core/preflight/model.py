"""What `make check` measures: a denoiser, what it is called with, and the VAE that makes images of its x_0."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from deme_core.checkpoints import denoiser_dir, denoiser_shape, load_denoiser
from deme_core.components import Autoencoder, Condition, blank_condition, is_text_to_image, pixel_shape
from deme_core.hub_layouts import import_pipeline


@dataclass(frozen=True)
class Model:
    """All on one device."""

    denoiser: Any
    shape: tuple[int, int, int]
    """(C, H, W) of its x_0."""
    condition: Condition
    """Of one image."""
    pixels: tuple[int, int, int]
    """(C, H, W) of an image."""
    vae: Autoencoder | None

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device


def read_model(source: Path, device: torch.device) -> Model:
    """The checkpoint in the folder `source`, in any layout."""
    with TemporaryDirectory() as folder:
        pipeline = Path(folder) / "pipeline"
        import_pipeline(source, pipeline)
        return Model(
            load_denoiser(denoiser_dir(pipeline)).to(device),
            shape := denoiser_shape(pipeline),
            blank_condition(pipeline, 1, device),
            pixel_shape(pipeline, shape),
            Autoencoder(pipeline, device) if is_text_to_image(pipeline) else None,
        )
