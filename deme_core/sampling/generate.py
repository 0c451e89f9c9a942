"""Images from a denoiser: image k depends on its seed alone, not on the batch it is sampled in."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deme_core.checkpoints import denoiser_dir, load_noise_schedule
from deme_core.data.images import to_pixels
from deme_core.sampling.schedulers import make_scheduler
from deme_core.sampling.settings import SamplerParams
from deme_core.seeds import SeedBlock, image_generators
from deme_core.timesteps import TimestepRanges

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Sampler:
    """A protocol of sampling: noise schedule, sampler, image shape (C, H, W) and device."""

    noise_schedule: Any
    params: SamplerParams
    shape: tuple[int, int, int]
    device: torch.device

    @classmethod
    def of(cls, pipeline: Path, params: SamplerParams, device: torch.device) -> "Sampler":
        """The protocol of a pipeline directory."""
        config = json.loads((denoiser_dir(pipeline) / "config.json").read_text())
        size = config["sample_size"]
        height, width = size if isinstance(size, list) else (size, size)
        return cls(load_noise_schedule(pipeline), params, (config["in_channels"], height, width), device)

    def generate(self, denoise: Denoise, block: SeedBlock, first: int, count: int) -> Iterator[torch.Tensor]:
        """Images `first` to `first + count − 1` of a seed block, in order.

        A U-Net's float results change with the batch size, so that the network always sees the same, full blocks of
        `params.block` images, aligned with the image index; what was not asked for is thrown away.

        Yields:
            uint8 [n, C, H, W] on the CPU, n <= params.block.
        """
        size = self.params.block
        for start in range(first - first % size, first + count, size):
            pixels = self._block(denoise, block, start)
            yield pixels[max(first - start, 0) : first + count - start]

    def images(self, denoise: Denoise, block: SeedBlock, first: int, count: int) -> torch.Tensor:
        """The images of `generate` as one tensor, uint8 [count, C, H, W]."""
        return torch.cat(list(self.generate(denoise, block, first, count)))

    @torch.inference_mode()
    def _block(self, denoise: Denoise, block: SeedBlock, start: int) -> torch.Tensor:
        scheduler = make_scheduler(self.noise_schedule, self.params)
        generators = image_generators(block, range(start, start + self.params.block))
        noise = [torch.randn(self.shape, generator=generator) for generator in generators]
        x = torch.stack(noise).to(self.device) * scheduler.init_noise_sigma
        dtype = getattr(torch, self.params.dtype)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            for t in scheduler.timesteps:
                prediction = denoise(x, t).float()
                x = scheduler.step(prediction, t, x, generator=generators).prev_sample
        return to_pixels(x).cpu()


def best_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def single(model: nn.Module, device: torch.device) -> Denoise:
    """One denoiser for all timesteps."""
    model = model.to(device).eval()
    return lambda x, t: model(x, t.to(x.device)).sample


def ensemble(experts: list[nn.Module], ranges: TimestepRanges, device: torch.device) -> Denoise:
    """Timestep-wise ensemble: step t goes to the expert of its range (Eq. 7); the paper's "before merge"."""
    calls = [single(expert, device) for expert in experts]
    return lambda x, t: calls[ranges.expert(int(t)) - 1](x, t)
