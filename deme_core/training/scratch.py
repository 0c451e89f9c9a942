"""Train a base model from scratch: the same loop, the full range, no teacher."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from deme_core.data.examples import Examples
from deme_core.params import check
from deme_core.processes import by_main
from deme_core.timesteps import TimestepRanges
from deme_core.training.job import Curve, Job, Snapshot
from deme_core.training.settings import AUTO, TrainingParams
from deme_core.work import work_dir


@dataclass(frozen=True, kw_only=True)
class ScratchParams:
    """Section `pretrain_load.train`: a UNet2DModel, its noise schedule, and how it is trained."""

    architecture: dict[str, Any]
    """Arguments of diffusers' UNet2DModel."""
    noise_schedule: dict[str, Any]
    """Arguments of diffusers' DDPMScheduler."""
    training: TrainingParams

    def __post_init__(self) -> None:
        rate = self.training.learning_rate
        check(rate != AUTO, "learning_rate", rate, "must be a number: there is no base yet to compare a probe with")
        check(
            self.training.consistency == 0,
            "consistency",
            self.training.consistency,
            "must be 0: no teacher yet",
        )
        check(
            self.training.projection == "none",
            "projection",
            self.training.projection,
            "must be none for a base",
        )


@dataclass(frozen=True, kw_only=True)
class PretrainParams:
    """Section `pretrain_load`."""

    source: str
    """A diffusers pipeline directory (such as zoo/digits-ddpm), a hub id, or `train`."""
    revision: str | None
    """Of a hub id: branch, tag or commit."""
    train: ScratchParams | None
    """How to train a base; given with source `train`, and only with it."""

    def __post_init__(self) -> None:
        check(
            (self.source == "train") == (self.train is not None), "pretrain_load.train",
            None if self.train is None else "a section", "is given with source: train, and only with it",
        )  # fmt: skip


def train_from_scratch(
    params: ScratchParams,
    examples: Examples,
    out: Path,
    *,
    seed: int,
    snapshot: Snapshot | None = None,
    snapshot_every: int = 0,
) -> Curve:
    """Train on images and write a DDPMPipeline directory to `out`; returns the curve of the loss."""
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    from deme_core.training.loop import train

    torch.manual_seed(seed)
    model = UNet2DModel(**params.architecture)
    schedule = DDPMScheduler(**params.noise_schedule)
    ranges = TimestepRanges.equal(1, schedule.config.num_train_timesteps)
    job = Job(label="pretrain", ranges=ranges, seed=seed, settings=params.training)
    state_folder = work_dir("pretrain", job.identity(examples) | {"base": asdict(params)}, __file__)
    curve = train(model, schedule, examples, job, state_folder, snapshot=snapshot, snapshot_every=snapshot_every)
    by_main(lambda: DDPMPipeline(model.cpu(), schedule).save_pretrained(out))
    return curve
