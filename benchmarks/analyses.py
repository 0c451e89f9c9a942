"""The memory of the paper's figures on a large network, beside that of one training step: `… analyses.py --help`.

A made-up text-to-image run with the architecture of Stable Diffusion 1.x: random weights, latents and embeddings, four
experts θ + noise. Each figure, and the training step, runs in a process of its own, with no page of θ cached.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from large import make_inputs, measure, parameters

from deme_core.analysis.figures import write_figure
from deme_core.analysis.run_files import Run
from deme_core.analysis.settings import AnalyseParams
from deme_core.data.examples import load_examples
from deme_core.merging.task_vectors import write_task_vector
from deme_core.params import read
from deme_core.sampling.settings import SamplerParams
from deme_core.search.result import SearchResult
from deme_core.tensors import write_tensors
from deme_core.timesteps import TimestepRanges
from deme_core.training.finetune import expert_job, finetune
from deme_core.training.settings import TrainingParams

N, T, IMAGES = 4, 1000, 64
STEP, FIGURES = "a training step", ("gradients", "critical_point", "vectors", "cosines")
SCHEDULE = {
    "_class_name": "DDPMScheduler", "num_train_timesteps": T, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "clip_sample": False, "prediction_type": "epsilon",
}  # fmt: skip


def make_run(work: Path, scale: float, side: int) -> None:
    """A finished run, as far as the figures read it."""
    pipeline, models = work / "models/pretrained", work / f"models/n{N}"
    experts = [models / f"experts/{i}" for i in range(1, N + 1)]
    folders = [pipeline / "unet", *experts]
    for folder in (*folders, pipeline / "scheduler", work / "search"):
        folder.mkdir(parents=True, exist_ok=True)
    make_inputs(folders, scale)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (pipeline / "model_index.json").write_text(json.dumps(index))
    (pipeline / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULE))
    for i, expert in enumerate(experts, 1):
        if not (out := models / f"vectors/{i}.safetensors").is_file():
            out.parent.mkdir(exist_ok=True)
            write_task_vector(folders[0], expert, out, {"made_up": i})
    draw = torch.Generator().manual_seed(0)
    mean = torch.randn(IMAGES, 4, side, side, generator=draw)
    write_tensors(work / "examples/train.safetensors", {
        "mean": mean, "std": torch.full_like(mean, 0.1), "embeddings": torch.randn(IMAGES + 1, 77, 768, generator=draw),
        "captions": torch.arange(1, IMAGES + 1), "first": torch.arange(IMAGES + 1),
    })  # fmt: skip
    kept = SearchResult(  # w = 0, so that the figure of Prop. 1 looks at θ alone
        method="grid", objective="frechet", prompts=[], extractors=[], weights=[0.0] * N, blocks=[], search_change=None,
        search_score=None, confirm_change=0.0, confirm_score=1.0, gap=None, confirm_score_pretrained=1.0,
        uniform=[1 / N] * N, confirm_score_uniform=1.0, best=[1 / N] * N, best_change_unit="%", best_change=0.0,
        best_change_low=-1.0, best_change_high=1.0, trials=0, images_sampled=0.0,
    )  # fmt: skip
    kept.write(work / "search/result.json")


def step(work: Path, batch: int) -> None:
    """Train for two steps as `sd_v1_4` does, but for the micro-batch, in float32."""
    settings = read("params.yaml")["finetune_range"] | {
        "iterations": 2, "batch_size": batch, "gradient_accumulation": 1, "consistency": 1.0, "log_every": 1,
        "checkpoint_every": 2, "gradient_checkpointing": True, "learning_rate": 5e-5, "mixed_precision": "no",
    }  # fmt: skip
    job = expert_job(TimestepRanges.of(N, T, None), 1, 0.3, TrainingParams(**settings), seed=0)
    examples = load_examples(work / "examples", "train")
    finetune(job, work / "models/pretrained", examples, work / "trained", checkpoints=work / "checkpoints")


def draw_figure(name: str, work: Path, batch: int, draws: int) -> None:
    """One figure, as the stage `analyse` makes it."""
    params = read("params.yaml")
    analyse = params["analyse"] | {"groups": 3, "draws": draws, "batch_size": batch, "gradient_checkpointing": True}
    run = Run(
        params=AnalyseParams(**analyse), sampler=SamplerParams(**params["sampler"]), N=N, boundaries=None, baselines=(),
        directions=("range",), random_draws=0, extractor="", models=work / "models", examples=work / "examples",
        reference=work, search=work / "search", samples=work, features=work,
    )  # fmt: skip
    write_figure(name, run, work / "figures")


def main() -> None:
    """Make the run, measure each part, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run; 10 x the size of the network")
    parser.add_argument("--scale", type=float, default=0.3, help="of the channels: 1 is SD 1.x, 860 M parameters")
    parser.add_argument("--side", type=int, default=32, help="of the latents; SD 1.x has 64")
    parser.add_argument("--batch", type=int, default=2, help="images of a micro-batch, in training and in the figures")
    parser.add_argument("--draws", type=int, default=2, help="of a group, for each range")
    parser.add_argument("--out", type=Path, help="JSON of the rows")
    parser.add_argument("--part", choices=(STEP, *FIGURES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        step(args.work, args.batch) if args.part == STEP else draw_figure(args.part, args.work, args.batch, args.draws)
        return
    make_run(args.work, args.scale, args.side)
    base = args.work / "models/pretrained/unet"
    sizes = {"side": args.side, "batch": args.batch, "draws": args.draws}
    rows: dict[str, Any] = {"parameters": parameters(base), **sizes}
    words = ["--work", str(args.work), "--batch", str(args.batch), "--draws", str(args.draws)]
    for part in (STEP, *FIGURES):
        rows[part] = measure([sys.executable, __file__, *words, "--part", part], [base])
        print(f"{part}: " + ", ".join(f"{name} {value:.4g}" for name, value in rows[part].items()), flush=True)
        if args.out:
            args.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
