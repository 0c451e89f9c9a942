"""The samples of one model on disk, archive by archive: resumable, and shared out among processes."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deme_core.checkpoints import denoiser_config, denoisers, load_denoiser, weights_file
from deme_core.components import Condition, blank_condition
from deme_core.data.archive import PER_ARCHIVE, PROTOCOL, read_images, write_archive, write_grid
from deme_core.denoising import Denoise, single
from deme_core.device import best_device, device_name
from deme_core.processes import partial_state
from deme_core.progress import progress
from deme_core.sampling.generate import Name, Sampler, ensemble, refuse_one_colour, unnamed
from deme_core.sampling.settings import SamplerParams
from deme_core.seeds import SeedBlock
from deme_core.tensors import weights_hash
from deme_core.timesteps import TimestepRanges
from deme_core.work import only_one, work_dir


def sample_model(
    model: Path, pretrained: Path, params: SamplerParams, images: int, out: Path, prompts: Sequence[str] = (),
    seeds: SeedBlock = SeedBlock.EVALUATION, first: int = 0,
) -> None:  # fmt: skip
    """Write the images `first` … `first + images − 1` of a seed block to `out`: archives, protocol.json, preview.png.

    Args:
        model: a pipeline directory, or the folder of the experts 1 … N for the ensemble.
        pretrained: the pipeline that gives noise schedule, image shape, text encoder and VAE.
        prompts: image k has the prompt k modulo their number; none for an unconditional pipeline.
    """
    process, device = partial_state(), best_device()
    folders, ranges = denoisers(model)
    sampler = Sampler.of(pretrained, params, device, prompts)
    identity = {
        "weights": [weights_hash(weights_file(folder)) for folder in folders],
        "denoisers": [denoiser_config(folder) for folder in folders],
        "bounds": ranges and ranges.bounds, "images": images, "seeds": [seeds.name, first],
    } | sampler.identity  # fmt: skip
    work = work_dir("sample", identity, __file__)
    with only_one(work):
        models = [load_denoiser(folder) for folder in folders]
        denoise = ensemble(models, ranges, device) if ranges else single(models[0], device)
        rank, world = process.process_index, process.num_processes
        write_missing(sampler, denoise, images, work, rank, world, named(folders, ranges), seeds, first)
        process.wait_for_everyone()
    if process.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        for archive in sorted(work.glob("*.zip")):
            shutil.move(archive, out / archive.name)
        shutil.rmtree(work)
        protocol = {"images": images, "seed_block": seeds.name, "sampler": asdict(params)}
        protocol |= {"device": device_name(device)}
        if prompts:
            protocol |= {"prompts": len(prompts), "prompts_sha256": sampler.conditions.sha256}
        blank = blank_condition(pretrained, 1, device)
        text = json.dumps(protocol | cost(models, sampler.shape, blank), indent=2, sort_keys=True)
        (out / PROTOCOL).write_text(text + "\n", encoding="utf-8")
        preview = next(read_images(out, min(images, PER_ARCHIVE)))[:100]
        write_grid(out / "preview.png", preview, columns=20, scale=max(1, 48 // preview.shape[-1]))


def named(folders: Sequence[Path], ranges: TimestepRanges | None) -> Name:
    """The folder of the denoiser that predicts at a timestep."""
    return lambda t: str(folders[ranges.expert(t) - 1 if ranges else 0])


def write_missing(
    sampler: Sampler,
    denoise: Denoise,
    images: int,
    directory: Path,
    rank: int = 0,
    world: int = 1,
    name: Name = unnamed,
    seeds: SeedBlock = SeedBlock.EVALUATION,
    first: int = 0,
) -> None:
    """Write the archives 0, 1, … that are this process's (number ≡ rank modulo world) and not there yet.

    Raises:
        InputError: the images of one are all of one colour, or a number on the way to them is not finite.
    """
    numbers = range(rank, -(-images // PER_ARCHIVE), world)
    todo = [number for number in numbers if not (directory / f"{number:04d}.zip").is_file()]
    spans = [range(first + k * PER_ARCHIVE, first + min((k + 1) * PER_ARCHIVE, images)) for k in todo]
    bar = progress(todo, desc="sampling", unit="archive", disable=rank != 0)
    for number, pixels in zip(bar, sampler.spans(denoise, seeds, spans, name), strict=True):
        refuse_one_colour(pixels, name(0))
        write_archive(directory, number, pixels)


def cost(models: list[nn.Module], shape: tuple[int, int, int], condition: Condition) -> dict[str, Any]:
    """Parameters of the model (of all experts together) and multiply-accumulates of one network call an image.

    Args:
        condition: of one image; only its shape counts.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        models[0](torch.zeros(1, *shape, device=next(models[0].parameters()).device), 0, **condition)
    return {
        "parameters": sum(p.numel() for model in models for p in model.parameters()),
        "macs_per_step": counter.get_total_flops() // 2,
    }
