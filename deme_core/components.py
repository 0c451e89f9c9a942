"""The frozen parts of a text-to-image pipeline: VAE, tokenizer and text encoder. They are read, never trained here."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from deme_core.errors import InputError
from deme_core.json_files import Kinds, blamed_on, read_json
from deme_core.parallel import in_order
from deme_core.tensors import weights_hash
from deme_core.weight_files import weight_file

Condition = Mapping[str, torch.Tensor]  # keyword arguments of the denoiser, a row an image; none for a plain one
PIXELS = 2**21  # pixels that the VAE takes at once; fixed, since float results depend on the batch in the last bits
TEXTS = 64  # texts that the text encoder takes at once, fixed for the same reason
LOCAL: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
FROZEN = {"vae": "config.json", "text_encoder": "config.json", "tokenizer": "tokenizer_config.json"}
KINDS: dict[str, Kinds] = {  # what is read of these files here
    "vae": {"block_out_channels": list, "out_channels": int, "latent_channels": int | None}, "tokenizer": {},
    "text_encoder": {"max_position_embeddings": int, "hidden_size": int},
}  # fmt: skip
CLASSES = {"vae": ("AutoencoderKL",), "text_encoder": ("CLIPTextModel",), "tokenizer": ("CLIPTokenizer",)}
NEEDS: dict[str, tuple[str, ...]] = {"UNet2DConditionModel": tuple(FROZEN)}  # of a denoiser, by its class


def read_index(pipeline: Path) -> dict[str, str]:
    """Part of a pipeline -> its class, as model_index.json names them; entries of another kind name no part."""
    index = read_json(pipeline / "model_index.json")
    named = {name: entry[-1] for name, entry in index.items() if isinstance(entry, list) and entry and "/" not in name}
    return {name: cls for name, cls in named.items() if isinstance(cls, str)}


def check_components(pipeline: Path, parts: Mapping[str, str], denoiser: str) -> None:
    """Refuse a pipeline that lacks a part which its denoiser needs, or names one of an unknown class.

    Args:
        parts: as `read_index` gives them.
        denoiser: the class of its denoiser.
    """
    if second := [name for name in parts if name.startswith("text_encoder_")]:
        raise InputError(
            f"{pipeline}: has a {second[0]}; only pipelines with one text encoder are supported, such as Stable"
            " Diffusion 1"
        )
    for name in NEEDS.get(denoiser, ()):
        if name not in parts or not (pipeline / name / FROZEN[name]).is_file():
            raise InputError(
                f"{pipeline}: a text-to-image pipeline needs {', '.join(FROZEN)}, and '{name}' is missing"
                f" ({name}/{FROZEN[name]}, named in model_index.json); fetch the whole pipeline"
            )
        if (cls := parts[name].removesuffix("Fast")) not in CLASSES[name]:
            raise InputError(
                f"{pipeline}: {name} is a {cls}; read is {', '.join(CLASSES[name])}, as model_index.json names it in"
                " Stable Diffusion 1"
            )
        _config(pipeline, name)
        if name != "tokenizer" and weight_file(pipeline / name) is None:
            raise InputError(f"{pipeline / name}: holds no weights; fetch them, too")


def is_text_to_image(pipeline: Path) -> bool:
    """Whether a verified pipeline has the parts that turn text into a condition, and latents into pixels."""
    return (pipeline / "text_encoder").is_dir()


class Autoencoder:
    """The VAE: images <-> latents, scaled as the denoiser sees them."""

    def __init__(self, source: Any, device: torch.device) -> None:
        """Of a pipeline's folder, or of an AutoencoderKL as it is."""
        vae: Any = _load_vae(source) if isinstance(source, Path) else source
        self.vae = vae.to(device).eval().requires_grad_(False)
        self.device, self.config = device, self.vae.config
        self.factor = _factor(self.config.block_out_channels)

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the scaled latents. float [n, C, H, W] in [-1, 1] -> twice [n, c, h, w]."""
        if not len(x):
            none = torch.empty(0, self.config.latent_channels, x.shape[2] // self.factor, x.shape[3] // self.factor)
            return none, none
        found = list(in_order(self._encode, x.split(self._batch(x, 1)), self.device))
        mean, std = (torch.cat([getattr(d, name) for d in found]).cpu() for name in ("mean", "std"))
        return mean * self.config.scaling_factor, std * self.config.scaling_factor

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Images in [-1, 1] of scaled latents. float [n, c, h, w] -> float [n, C, H, W]."""
        return torch.cat(list(in_order(self._decode, z.split(self._batch(z, self.factor)), self.device)))

    @torch.inference_mode()
    def _encode(self, x: torch.Tensor) -> Any:
        return self.vae.encode(x.to(self.device)).latent_dist

    @torch.inference_mode()
    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(z.to(self.device, torch.float32) / self.config.scaling_factor).sample

    @staticmethod
    def _batch(x: torch.Tensor, factor: int) -> int:
        return max(1, PIXELS // (x.shape[-1] * x.shape[-2] * factor**2))


def _load_vae(pipeline: Path) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with blamed_on(pipeline / "vae", "no VAE can be loaded from it"):
        return AutoencoderKL.from_pretrained(pipeline / "vae", torch_dtype=torch.float32, **LOCAL)


class TextEncoder:
    """Tokenizer and text encoder: texts -> the condition of the denoiser."""

    def __init__(self, pipeline: Path, device: torch.device) -> None:
        from transformers import CLIPTextModel, CLIPTokenizer

        with blamed_on(pipeline / "tokenizer", "no tokenizer can be loaded from it"):
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(pipeline / "tokenizer", local_files_only=True)
        with blamed_on(pipeline / "text_encoder", "no text encoder can be loaded from it"):
            model: Any = CLIPTextModel.from_pretrained(pipeline / "text_encoder", dtype=torch.float32, **LOCAL)
        self.model = model.to(device).eval().requires_grad_(False)
        self.device, self.reading = device, threading.Lock()
        self.tokens = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts that have more tokens than the encoder takes; they are cut after these, as CLIP does."""
        return [text for text in texts if len(self.tokenizer(text, verbose=False).input_ids) > self.tokens]

    def say_too_long(self, texts: Sequence[str]) -> None:
        """Print how many of the texts are cut, and the first of them."""
        if cut := self.too_long(texts):
            print(
                f"{len(cut)} of {len(texts)} texts are longer than the {self.tokens} tokens that the text encoder"
                f" takes, and are cut after them, as CLIP does; the first is {cut[0][:80]!r}"
            )

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Their last hidden states, float32 [n, tokens, width] on the device, as StableDiffusionPipeline gives them."""
        parts = [list(texts[start : start + TEXTS]) for start in range(0, len(texts), TEXTS)]
        return torch.cat(list(in_order(self._states, parts, self.device)))

    @torch.inference_mode()
    def _states(self, texts: list[str]) -> torch.Tensor:
        padded = texts + [""] * (TEXTS - len(texts))
        with self.reading:  # a fast tokenizer sets padding and truncation in itself, and refuses a second thread
            tokens = self.tokenizer(
                padded, padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
            )
        mask = tokens.attention_mask.to(self.device) if self._masks() else None
        hidden = self.model(tokens.input_ids.to(self.device), attention_mask=mask).last_hidden_state
        return hidden[: len(texts)]

    def _masks(self) -> bool:
        return bool(getattr(self.model.config, "use_attention_mask", False))


def frozen_hashes(pipeline: Path) -> dict[str, dict[str, str]]:
    """Frozen part -> file -> hash of its weights, or of its bytes; none for an unconditional pipeline.

    Configs and vocabularies count as weights do: a scaling factor changes all latents.
    """
    names = FROZEN if is_text_to_image(pipeline) else ()
    return {name: {file.name: _file_hash(file) for file in _files(pipeline / name)} for name in names}


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]


def _file_hash(file: Path) -> str:
    if file.suffix == ".safetensors":
        return weights_hash(file)
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def pixel_shape(pipeline: Path, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(C, H, W) of the images that x_0 of this shape stands for."""
    if not is_text_to_image(pipeline):
        return shape
    config = _config(pipeline, "vae")
    factor = _factor(config["block_out_channels"])
    return config["out_channels"], shape[1] * factor, shape[2] * factor


def latent_channels(pipeline: Path) -> int:
    """Channels of a text-to-image pipeline's latents."""
    return _config(pipeline, "vae").get("latent_channels") or 4


def _config(pipeline: Path, part: str) -> dict[str, Any]:
    return read_json(pipeline / part / FROZEN[part], KINDS[part])


def _factor(block_out_channels: Sequence[int]) -> int:
    """Pixels a latent, along a side."""
    return 2 ** (len(block_out_channels) - 1)


def blank_condition(pipeline: Path, n: int, device: torch.device) -> Condition:
    """A condition of zeros in the shape that the pipeline's denoiser takes; none for an unconditional one."""
    if not is_text_to_image(pipeline):
        return {}
    config = _config(pipeline, "text_encoder")
    shape = (n, config["max_position_embeddings"], config["hidden_size"])
    return {"encoder_hidden_states": torch.zeros(shape, device=device)}
