"""CLIP models through open_clip: both towers, with the preprocessing and the tokenizer that belong to the weights.

A model is a folder in open_clip's format, or a repository of it on the Hugging Face hub: its config holds architecture
and preprocessing together. open_clip also takes a weights file alone, and then preprocesses with its own defaults,
without a word: that way is not offered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deme_core.device import best_device
from deme_core.errors import InputError
from deme_core.json_files import read_json
from deme_core.metrics.extractor import Extractor, files_of_model, rgb
from deme_core.naming import said
from deme_core.parallel import in_order
from deme_core.tensors import shapes, weights_hash

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")  # of a model that does not use open_clip's own
BLOCK = 50  # images or texts a forward pass
LONG = 1024  # tokens that no prompt reaches


@dataclass(frozen=True)
class OpenClip:
    """A CLIP model in evaluation mode, on the GPU where there is one."""

    folder: Path
    model: Any
    preprocess: Callable[[Any], torch.Tensor]
    """A PIL image -> what the image tower takes, [3, H, W]."""

    def extractor(self, name: str) -> Extractor:
        """The image tower: features [n, D] before their normalisation."""
        from PIL import Image

        def prepare(pixels: torch.Tensor) -> torch.Tensor:
            images = [Image.fromarray(image.numpy()) for image in rgb(pixels).permute(0, 2, 3, 1).contiguous()]
            return torch.stack([self.preprocess(image) for image in images])

        def forward(x: torch.Tensor) -> torch.Tensor:
            return self.model.encode_image(x.to(device))

        device = best_device()
        return Extractor(name, weights_hash(self.folder / WEIGHTS), forward, BLOCK, prepare, device)

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 [n, D] on the CPU, before their normalisation; texts that are too long are cut, counted and told."""
        from open_clip import get_tokenizer

        tokenizer = get_tokenizer(f"local-dir:{self.folder}")
        tokens, whole = tokenizer(list(texts)), tokenizer(["", *texts], context_length=LONG)
        length = tokens.shape[1]
        if cut := int((whole[1:, length:] != whole[0, -1]).any(1).sum()):
            print(f"{self.folder}: {cut} of {len(texts)} texts are longer than its {length} tokens, and are cut there")
        device = best_device()

        @torch.inference_mode()
        def features(part: torch.Tensor) -> torch.Tensor:
            return self.model.encode_text(part.to(device)).float().cpu()

        return torch.cat(list(in_order(features, tokens.split(BLOCK), device)))


def load_open_clip(source: str, pretrained: str | None = None, revision: str | None = None) -> OpenClip:
    """A model with its preprocessing.

    Args:
        source: a folder of CONFIG and WEIGHTS, a hub id of these files, or with `pretrained` the name of an
            architecture that open_clip knows, as ViT-g-14.
        pretrained: open_clip's tag of weights for that name, as laion2b_s12b_b42k.
        revision: of a hub id.

    Raises:
        InputError: open_clip is not there, the model is neither a folder nor to be had, its config is of another
            format, or its weights do not fit its config.
    """
    open_clip = _package()
    if pretrained is not None:
        source = hub_id(source, pretrained)
    place = {"source": source, "revision": revision}
    folder = files_of_model(place, (CONFIG, WEIGHTS))
    if _own_tokenizer(folder):
        folder = files_of_model(place, (CONFIG, WEIGHTS, *TOKENIZER))
    try:
        model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    except Exception as error:  # of torch where keys or shapes differ, of open_clip and others at a broken file
        raise InputError(
            f"{folder / WEIGHTS} does not fit {folder / CONFIG} ({said(error)}); take both from one model"
        ) from None
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for key, shape in shapes(folder / WEIGHTS).items():  # open_clip interpolates position embeddings, without a word
        if len(shape) > 1 and wanted.get(key, shape) != shape:
            raise InputError(
                f"{folder / WEIGHTS} does not fit {folder / CONFIG} ('{key}' has shape {list(shape)}, the config wants"
                f" {list(wanted[key])}); take both from one model"
            )
    return OpenClip(folder, model.eval().to(best_device()), preprocess)


def _package() -> Any:
    try:
        import open_clip
    except Exception as error:  # a torchvision of another torch fails in many ways
        raise InputError(
            f"CLIP needs open_clip_torch and a torchvision that matches torch ({said(error)}): pip install"
            " 'deme[real-images]'"
        ) from None
    return open_clip


def hub_id(name: str, tag: str) -> str:
    """The hub repository of the weights that open_clip calls `tag` for the architecture `name`."""
    _package()
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    if not (known := list_pretrained_tags_by_model(name)):
        raise InputError(f"CLIP model '{name}': open_clip knows no weights for such a name; give one as ViT-g-14")
    place = get_pretrained_cfg(name, tag).get("hf_hub", "").split("/")  # owner/repository/ or owner/repository/file
    if len(place) < 2:
        raise InputError(f"CLIP model '{name}': no weights tagged '{tag}' on the hub; tags are {', '.join(known)}")
    return "/".join(place[:2])


def _own_tokenizer(folder: Path) -> bool:
    config = read_json(folder / CONFIG, {"model_cfg": dict, "preprocess_cfg": dict})  # the model and its preprocessing
    text = config["model_cfg"].get("text_cfg")
    return isinstance(text, dict) and bool(text.get("hf_tokenizer_name"))
