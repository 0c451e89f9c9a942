"""Models of anyone as a source: a base pipeline and the experts that were finetuned from it."""

from collections.abc import Sequence
from pathlib import Path

from deme_core.checkpoints import denoiser_dir, denoiser_of, refuse_pickles
from deme_core.components import is_text_to_image
from deme_core.dag import RANGE
from deme_core.errors import InputError
from deme_core.explore.directions import Direction, Directions
from deme_core.explore.source import Source
from deme_core.merging.same_model import check_same_model, check_whole
from deme_core.merging.task_vectors import write_task_vector
from deme_core.sampling.settings import SamplerParams

BOUNDS = (-0.75, 1.5)  # of a weight, as the default experiment has them
GUIDANCE = 7.5  # of text-to-image pipelines, as diffusers has it
SAMPLER = SamplerParams(kind="ddim", steps=20, spacing="trailing", block=8, dtype="float32")
GUIDED = SamplerParams(kind="ddim", steps=20, spacing="trailing", block=8, dtype="float32", guidance=GUIDANCE)


def of_experts(base: Path, experts: Sequence[Path], folder: Path) -> Source:
    """A base and its experts, as `deme merge` takes them.

    Args:
        base: a pipeline.
        experts: pipelines or denoiser folders.
        folder: where their task vectors are written, in float32.

    Raises:
        InputError: a folder is missing, the base is no pipeline, or an expert is another model than it.
    """
    for model in (base, *experts):
        if not model.is_dir():
            raise InputError(f"{model}: no such directory; give a folder on this machine")
    if not (base / "model_index.json").is_file():
        raise InputError(f"{base}: no pipeline: it holds no model_index.json, and a U-Net alone draws no image")
    refuse_pickles(base)
    check_whole(base)
    check_same_model(base, experts, allow=False)
    files = []
    for i, expert in enumerate(experts, 1):
        files.append(folder / f"{i}.safetensors")
        write_task_vector(denoiser_dir(base), denoiser_of(expert), files[-1], {})
    labels = tuple(f"{i}: {expert.name}" for i, expert in enumerate(experts, 1))
    directions = Directions((Direction(RANGE, tuple(files), labels, BOUNDS),))
    text = is_text_to_image(base)
    return Source(
        title=base.name, base=base, directions=directions, sampler=GUIDED if text else SAMPLER,
        prompts=("",) if text else (), experts=tuple(experts),
    )  # fmt: skip
