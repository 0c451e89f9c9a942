"""Inception features, those of FID: the network and the resizing of clean-fid."""

import hashlib
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deme_core.device import best_device
from deme_core.errors import InputError
from deme_core.metrics.extractor import Extractor, rgb
from deme_core.naming import said
from deme_core.tensors import atomic_file

RESIZING = ("clean", "legacy_pytorch", "legacy_tensorflow")
BLOCK = 50
FILE = "inception-2015-12-05.pt"
PUBLISHED = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # SHA-256 of NVIDIA's file


def load_inception(directory: Path, config: dict[str, Any]) -> Extractor:
    """The 2,048 pooled features of the TorchScript Inception of FID (Parmar et al. 2022, arXiv 2104.11222).

    Keys of the config: `weights`, the path of inception-2015-12-05.pt, downloaded where it is missing; `resize`, how
    images come to 299×299: `clean` (antialiased bicubic), `legacy_pytorch` (bilinear, without antialiasing) or
    `legacy_tensorflow` (inside the network). All three run this network; clean-fid's own legacy_pytorch runs the port
    of its weights to PyTorch, whose features differ by rounding.

    Raises:
        InputError: `weights` is another file than the published one. TorchScript is a program: no other is run.
    """
    resize, file = config["resize"], Path(config["weights"])
    if resize not in RESIZING:
        raise InputError(f"extractor '{directory}': resize = {resize!r} is unknown; known are {', '.join(RESIZING)}")
    if file.name != FILE:
        raise InputError(f"extractor '{directory}': weights = {str(file)!r}: the file must be named {FILE}")
    try:
        from cleanfid.downloads_helper import inception_url
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer
    except ImportError as error:
        raise InputError(
            f"extractor '{directory}' needs the package clean-fid ({said(error)}): pip install 'deme[real-images]'"
        ) from None
    if not file.is_file():
        _download(inception_url, file)
    content = file.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != PUBLISHED:
        raise InputError(
            f"{file}: SHA-256 {found} is not that of the published TorchScript Inception, {PUBLISHED}, and no other"
            " program is run; remove it, and it is fetched again"
        )
    network = InceptionV3W(str(file.parent), download=False, resize_inside=resize == "legacy_tensorflow")
    device, resizer = best_device(), build_resizer(resize)
    network = network.eval().to(device)

    def prepare(pixels: torch.Tensor) -> torch.Tensor:
        images = rgb(pixels).permute(0, 2, 3, 1).numpy()
        resized = np.stack([np.asarray(resizer(image), np.float32) for image in images])
        return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous()

    digest = hashlib.sha256(content + resize.encode())
    return Extractor(directory.name, digest.hexdigest(), lambda x: network(x.to(device)), BLOCK, prepare, device)


def _download(url: str, file: Path) -> None:
    print(f"extractor: downloading {url} to {file} (95 MB)")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, atomic_file(file) as partial:
            shutil.copyfileobj(response, partial)
    except OSError as error:
        raise InputError(
            f"{file}: no such file, and {url} cannot be fetched ({said(error)}); download it elsewhere and put it there"
        ) from None
