"""What a feature extractor is, and where its weights come from."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deme_core.errors import InputError
from deme_core.naming import said
from deme_core.parallel import CPU, PIECE, in_order


@dataclass(frozen=True)
class Extractor:
    """Images -> features; `name` and `sha256` stand in every protocol."""

    name: str
    sha256: str
    forward: Callable[[torch.Tensor], torch.Tensor]
    """The network: what `prepare` gives, [n, …] on the CPU -> features [n, D], anywhere."""
    block: int = 500
    """Images a forward pass."""
    prepare: Callable[[torch.Tensor], torch.Tensor] = lambda pixels: pixels
    """The share of the CPU, such as resizing: uint8 [n, C, H, W] -> [n, …], each image for itself."""
    device: torch.device = CPU
    """Where `forward` computes."""

    def __call__(self, images: Iterable[torch.Tensor]) -> np.ndarray:
        """Features of a stream of uint8 [n, C, H, W]: float32 [total, D].

        The network sees blocks of `block` images however the stream is cut, so that the same images give the same
        bits in a search trial and in an evaluation. On a CPU as many blocks are computed at a time as torch has
        threads; for a GPU these prepare the images that come next.

        Raises:
            InputError: there is no image, or a feature is not finite.
        """
        if self.device.type == "cpu":
            parts = in_order(lambda block: self._features(self.prepare(block)), batched(images, self.block))
        else:
            ready = in_order(self.prepare, batched(images, PIECE), ahead=-(-self.block // PIECE))
            parts = map(self._features, batched(ready, self.block))
        if not (found := list(parts)):
            raise InputError(f"extractor {self.name}: no image to extract features from")
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def _features(self, prepared: torch.Tensor) -> torch.Tensor:
        features = self.forward(prepared).float().cpu()
        if bad := int((~features.isfinite()).any(1).sum()):
            raise InputError(
                f"extractor {self.name}: {bad} of {len(features)} images have features that are not finite; its weights"
                " are broken, so fetch them again"
            )
        return features


def batched(parts: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The rows of `parts` in tensors of `size` rows, the last one shorter; cut from a part they share its memory."""
    kept: list[torch.Tensor] = []
    missing = size
    for part in parts:
        while len(part) >= missing:
            yield torch.cat([*kept, part[:missing]]) if kept else part[:missing]
            part, kept, missing = part[missing:], [], size
        if len(part):
            kept.append(part)
            missing -= len(part)
    if kept:
        yield torch.cat(kept) if len(kept) > 1 else kept[0]


def rgb(pixels: torch.Tensor) -> torch.Tensor:
    """[n, C, H, W] of one or three channels -> [n, 3, H, W]: large networks know no grey."""
    return pixels.expand(-1, 3, -1, -1)


def files_of_model(config: dict[str, Any], files: tuple[str, ...]) -> Path:
    """The folder of a published model's `files`: the directory `source` of its config, or a snapshot of that hub id.

    What the hub's cache lacks is downloaded, and said so.
    """
    source = config["source"]
    folder = Path(source)
    if folder.is_dir():
        if missing := [name for name in files if not (folder / name).is_file()]:
            raise InputError(f"{folder / missing[0]}: no such file; the model's folder must hold {', '.join(files)}")
        return folder
    from huggingface_hub import snapshot_download

    print(f"extractor {source} (revision {config.get('revision') or 'main'}): downloading what is not in the cache")
    try:
        snapshot = snapshot_download(source, revision=config.get("revision"), allow_patterns=list(files))
    except Exception as error:  # of the hub, of the network, of a malformed id
        raise InputError(
            f"{source}: neither a directory nor to be had from the hub ({said(error)}); fetch {', '.join(files)}"
            " elsewhere and set `source` to their folder"
        ) from None
    return files_of_model({"source": snapshot}, files)
