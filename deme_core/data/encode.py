"""Images and captions -> what a denoiser is trained on, once: VAE and text encoder run here, and never again.

A pipeline without these parts is trained on the pixels themselves. Latents and embeddings are kept in half precision:
their error, 2⁻¹¹ of a value, is far below that of the VAE.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deme_core.amounts import amount
from deme_core.components import Autoencoder, TextEncoder, frozen_hashes, is_text_to_image
from deme_core.data.images import PARTS, Images, load_part, pixels_hash, to_model
from deme_core.device import best_device
from deme_core.errors import InputError
from deme_core.fit import check_base
from deme_core.processes import is_main, partial_state, wait
from deme_core.progress import progress
from deme_core.tensor_files import Tensors
from deme_core.tensors import nbytes, stream_pieces, write_tensors
from deme_core.work import ROOT, only_one, work_dir

KEPT = torch.float16
CHUNK = 1000  # images or captions a file of unfinished work


@dataclass(frozen=True, kw_only=True)
class EncodeParams:
    """Section `encode`, of text-to-image models."""

    flips: bool
    """Also encode each image mirrored, as finetune_range.horizontal_flip needs it: twice the time and disk."""


def encode_parts(
    pipeline: Path, data: Path, params: EncodeParams, out: Path, checkpoints: Path = ROOT, parts: Sequence[str] = PARTS
) -> None:
    """Write the examples of parts of a data set to `out`, for `deme_core.data.examples.load_examples`.

    What was encoded before an interruption is not encoded again.

    Raises:
        InputError: the pipeline does not fit the images, or these have no captions.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not is_text_to_image(pipeline):
        for part in parts if is_main() else ():
            link_or_copy(data / f"{part}.safetensors", out / f"{part}.safetensors")
        return
    device = best_device()
    vae, text = Autoencoder(pipeline, device), TextEncoder(pipeline, device)
    frozen = frozen_hashes(pipeline)
    loaded = {part: load_part(data, part) for part in parts}
    first = loaded[parts[0]]
    check_base(pipeline, first.shape, captions=first.captions is not None)
    size = amount(_size(loaded, vae, text, params), "B")
    if is_main():
        print(f"encoding {sum(map(len, loaded.values())):,} images; this will take {size} on disk")
    for part, images in loaded.items():
        identity = {"data": pixels_hash(images.pixels), "captions": images.captions, "flips": params.flips} | frozen
        work = work_dir("encode", identity, __file__, checkpoints)
        with only_one(work):
            files = _encode(images, vae, text, params, work)
            wait()
            if is_main():
                _join(files, out / f"{part}.safetensors")
                shutil.rmtree(work)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name, since a data set may be large; a copy where the file system has no links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _encode(images: Images, vae: Autoencoder, text: TextEncoder, params: EncodeParams, work: Path) -> list[Path]:
    """Write this process' share of the files of unfinished work; the names of all."""
    captions, distinct = _captions(images)
    if is_main():
        text.say_too_long(distinct)

    def latents(part: slice) -> dict[str, torch.Tensor]:
        x = to_model(images.pixels[part])
        named = dict(zip(("mean", "std"), vae.moments(x), strict=True))
        if params.flips:
            named |= zip(("mean_flipped", "std_flipped"), vae.moments(x.flip(-1)), strict=True)
        return named

    def embeddings(part: slice) -> dict[str, torch.Tensor]:
        return {"embeddings": text(distinct[part])}

    row = {caption: k for k, caption in enumerate(distinct)}
    counts = [len(texts) for texts in images.captions or ()]
    small = {
        "captions": torch.tensor([row[caption] for caption in captions], dtype=torch.int64),
        "first": torch.tensor([0, *counts], dtype=torch.int64).cumsum(0),
    }
    if is_main():
        write_tensors(work / "captions.safetensors", small)
    return [
        *_chunks(work, "latents", len(images), latents),
        *_chunks(work, "embeddings", len(distinct), embeddings),
        work / "captions.safetensors",
    ]


def _captions(images: Images) -> tuple[list[str], list[str]]:
    """All captions, image by image; and the distinct ones, of which the first is the empty one."""
    captions = [caption for texts in images.captions or () for caption in texts]
    return captions, ["", *sorted(set(captions) - {""})]


def _chunks(work: Path, name: str, count: int, encode: Callable[[slice], dict[str, torch.Tensor]]) -> list[Path]:
    """Encode `count` things, CHUNK a file, in turn a file a process, leaving out those that are there.

    Returns:
        All files, at least one, which may be empty.
    """
    starts = range(0, max(count, 1), CHUNK)
    files = [work / f"{name}-{start:09d}.safetensors" for start in starts]
    share = list(zip(starts, files, strict=True))[partial_state().process_index :: partial_state().num_processes]
    for start, file in progress(share, desc=name, unit="chunk", disable=not is_main()):
        if not file.is_file():
            chunk = {key: value.cpu().to(KEPT) for key, value in encode(slice(start, start + CHUNK)).items()}
            if bad := [key for key, value in chunk.items() if not value.isfinite().all()]:
                raise InputError(
                    f"{name} {start} to {min(start + CHUNK, count) - 1}: {bad[0]} is not finite in half precision; VAE"
                    " or text encoder are broken, so fetch the pipeline again"
                )
            write_tensors(file, chunk)
    return files


def _join(files: Sequence[Path], out: Path) -> None:
    """Write the tensors of some files as one file, those of one name one after the other."""
    layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    holders: dict[str, list[Path]] = {}
    for file in files:
        with Tensors(file) as tensors:  # one open at a time: a large set has more of them than a process may open
            for key, (dtype, shape) in tensors.layout.items():
                before = layout[key][1][0] if key in layout else 0
                layout[key] = dtype, (before + shape[0], *shape[1:])
                holders.setdefault(key, []).append(file)

    def pieces(key: str) -> Iterator[torch.Tensor]:
        for file in holders[key]:
            with Tensors(file) as tensors:
                piece = tensors.get_tensor(key)
            yield piece

    stream_pieces(out, layout, pieces)


def _size(parts: dict[str, Images], vae: Autoencoder, text: TextEncoder, params: EncodeParams) -> int:
    """Bytes of all files."""
    total = 0
    for images in parts.values():
        size = images.pixels.shape[-1] // vae.factor
        latents = (len(images), vae.config.latent_channels, size, size)
        _, distinct = _captions(images)
        embeddings = (len(distinct), text.tokens, text.model.config.hidden_size)
        total += nbytes(KEPT, latents) * (4 if params.flips else 2) + nbytes(KEPT, embeddings)
    return total
