"""Has a base model of the zoo converged? `python zoo/convergence.py zoo/digits-ddpm`, after its training.

Reads the snapshots of `zoo/train_ddpm.py` and writes into the folder of the recipe: convergence.csv (loss on the
training and the held-out part, every snapshot), convergence.json (Fréchet distance of three checkpoints over the last
third of the training, by one extractor or as the geometric mean of a group of judges, over seed blocks, with the
paired change from the first to the last of them) and convergence.png.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from recipe import read_recipe

from deme_core.checkpoints import denoiser_dir, load_denoiser, load_noise_schedule
from deme_core.data.examples import Pixels
from deme_core.data.images import DataParams
from deme_core.data.sources import read_parts
from deme_core.denoising import single
from deme_core.device import best_device
from deme_core.metrics.features import load_extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.intervals import Interval, paired_interval, t_interval
from deme_core.metrics.judges import judge_folders
from deme_core.metrics.moments import Moments
from deme_core.params import section
from deme_core.progress import progress
from deme_core.sampling.generate import Sampler
from deme_core.sampling.settings import SamplerParams
from deme_core.seeds import SeedBlock
from deme_core.stage import run
from deme_core.tensors import read_tensors
from deme_core.timesteps import TimestepRanges
from deme_core.training.range_losses import image_losses
from deme_core.work import ROOT


def main() -> None:
    folder, recipe = read_recipe(__doc__, "data", "train", "convergence", "sampler")
    check = recipe["convergence"]
    data = section(recipe, "data", DataParams)
    parts = {part: images for part, images in read_parts(data).items() if len(images)}
    schedule, device = load_noise_schedule(folder), best_device()
    everything = TimestepRanges((0, schedule.config.num_train_timesteps))
    model = load_denoiser(denoiser_dir(folder))
    snapshots = {int(file.stem): file for file in sorted((ROOT / "zoo" / folder.name).glob("*.safetensors"))}
    last = recipe["train"]["training"]["iterations"]
    steps = [last * 2 // 3, last * 5 // 6, last]
    if not snapshots.keys() >= set(steps) or max(snapshots) != last:
        raise SystemExit(
            f"{ROOT / 'zoo' / folder.name}: holds no snapshots of this recipe, which needs steps {steps}; run"
            f" python zoo/train_ddpm.py {folder} in an empty .checkpoints/"
        )

    losses = []
    for step, file in progress(snapshots.items(), desc="losses", unit="snapshot"):
        model.load_state_dict(read_tensors(file))
        denoise = single(model, device)
        row = {
            part: image_losses(denoise, schedule, Pixels(images.pixels), everything, draws, device).mean()
            for (part, images), draws in zip(parts.items(), check["draws"], strict=True)
        }
        losses.append({"step": step} | row)
    table = pd.DataFrame(losses)
    table.to_csv(folder / "convergence.csv", index=False)

    extractors = [load_extractor(str(folder)) for folder in extractor_folders(check)]
    references = [FrechetReference(Moments.of(extractor([parts["train"].pixels]))) for extractor in extractors]
    sampler = Sampler.of(folder, section(recipe, "sampler", SamplerParams), device)
    distances: dict[int, list[float]] = {}
    for step in progress(steps, desc="Fréchet distance", unit="checkpoint"):
        model.load_state_dict(read_tensors(snapshots[step]))
        images = sampler.images(single(model, device), SeedBlock.BASE, 0, check["blocks"] * check["images_a_block"])
        found = [
            [reference.distance(Moments.of(block)) for block in np.split(extractor([images]), check["blocks"])]
            for extractor, reference in zip(extractors, references, strict=True)
        ]
        distances[step] = np.exp(np.log(found).mean(axis=0)).tolist()

    def figures(interval: Interval) -> dict[str, float]:
        return {"value": interval.value, "low": interval.low, "high": interval.high}

    quality = {
        "extractor": ", ".join(f"{extractor.name}-{extractor.sha256[:8]}" for extractor in extractors),
        "blocks": check["blocks"],
        "images_a_block": check["images_a_block"],
        "frechet_train": {step: figures(t_interval(values)) for step, values in distances.items()},
        "change": {
            f"{first} to {second}": figures(paired_interval(distances[second], distances[first]))
            for first, second in [*pairwise(steps), (steps[0], steps[-1])]
        },
        "loss": {step: table.loc[table.step == step, ["train", "heldout"]].iloc[0].to_dict() for step in steps},
    }
    (folder / "convergence.json").write_text(json.dumps(quality, indent=2) + "\n")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(table.step, table.train, label="training part")
    left.plot(table.step, table.heldout, label="held-out part")
    left.axvspan(last * 2 / 3, last, color="0.92", label="last third")
    left.set(xlabel="optimizer steps", ylabel="denoising loss", yscale="log", title="Loss of the EMA weights")
    left.legend()
    for values in zip(*distances.values(), strict=True):
        right.plot(steps, values, color="0.75", linewidth=0.8)
    right.plot(steps, [np.mean(v) for v in distances.values()], color="C3", marker="o", label="mean")
    right.set(xlabel="optimizer steps", ylabel="Fréchet distance", xticks=steps, ylim=(0, None))
    right.set_title(f"{check['blocks']} seed blocks of {check['images_a_block']} images")
    right.legend()
    figure.savefig(folder / "convergence.png", dpi=110, metadata={"Software": None})


def extractor_folders(check: dict[str, Any]) -> list[Path]:
    """The extractor of the section `convergence`, or all of its group of judges."""
    return judge_folders(Path(check["judges"])) if "judges" in check else [Path(check["extractor"])]


if __name__ == "__main__":
    run(main)
