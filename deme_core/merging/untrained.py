"""Task vectors that need neither a training nor an image: directions `early` and `scale`.

`early`: τ = θ_e − θ of a checkpoint θ_e that the base's own training passed on its way to θ; a negative weight goes on
from there. Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself" (arXiv 2406.02507), do so with
predictions, in every network call; here it is done once, with weights.

`scale`: Ning et al. 2024, "Elucidating the Exposure Bias in Diffusion Models" (arXiv 2308.15321), divide the
predicted ε by a constant. The last convolution is linear: with τ = −θ in its ε channels and 0 elsewhere θ + wτ predicts
(1 − w)ε.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from deme_core.checkpoints import architecture, denoiser_dir, load_noise_schedule, verify_denoiser, weights_file
from deme_core.dag import EARLY, SCALE
from deme_core.errors import InputError
from deme_core.hub_layouts import find_layout, import_denoiser, source_schedule
from deme_core.json_files import read_json
from deme_core.merging.task_vectors import write_task_vector
from deme_core.params import check
from deme_core.tensor_files import Tensors
from deme_core.tensors import check_same_layout, stream_tensors, weights_hash

LAST = ("conv_out.weight", "conv_out.bias")


@dataclass(frozen=True, kw_only=True)
class EarlyParams:
    """Section `early`."""

    source: str | None
    """Folder of an earlier checkpoint of the base's own training, in any layout that a base may have; null: none."""


def check_untrained(directions: Sequence[str], early: EarlyParams, base: Path | None) -> None:
    """Refuse directions that this base, or this section, does not give.

    Args:
        base: folder of the base in any layout, where it is on this machine.
    """
    if EARLY in directions:
        denoiser = early_denoiser(early)
        if base is not None:
            check_same_architecture(denoiser, find_layout(base).denoiser)
    if SCALE in directions and base is not None:
        check_predicts_epsilon(source_schedule(base))


def early_denoiser(early: EarlyParams) -> Path:
    """The folder of the earlier checkpoint's denoiser."""
    check(
        early.source is not None and Path(early.source).is_dir(), "early.source", early.source,
        "the direction early needs the folder of an earlier checkpoint of the base's own training; name it, or take"
        " early out of `directions`",
    )  # fmt: skip
    return find_layout(Path(str(early.source))).denoiser


def check_same_architecture(early: Path, base: Path) -> None:
    """Refuse a denoiser folder whose tensors have other names or shapes than the base's."""
    check_same_layout(architecture(early), architecture(base), str(early), str(base))


def check_predicts_epsilon(schedule: Any) -> None:
    """Refuse a network that predicts v or x_0: a factor on its output is none on ε."""
    kind = schedule.config.prediction_type
    if kind != "epsilon":
        raise InputError(
            f"params: directions: scale: the base predicts {kind!r}, and only a network that predicts 'epsilon' has its"
            " ε scaled by its last convolution; take scale out of `directions`"
        )


def early_vector(pretrained: Path, early: EarlyParams, out: Path) -> None:
    """Write τ = θ_e − θ to out/1.safetensors.

    Raises:
        InputError: there is no such checkpoint, it is of another architecture, or the base itself.
    """
    source, base = early_denoiser(early), denoiser_dir(pretrained)
    check_same_architecture(source, base)
    with TemporaryDirectory() as folder:
        import_denoiser(source, checkpoint := Path(folder) / "early")
        verify_denoiser(checkpoint)
        if weights_hash(weights_file(checkpoint)) == weights_hash(weights_file(base)):
            raise InputError(f"params: early.source = {early.source!r}: holds the base itself; name an earlier one")
        write_task_vector(base, checkpoint, out / "1.safetensors", {"direction": EARLY})


def epsilon_vector(pretrained: Path, early: EarlyParams, out: Path) -> None:
    """Write τ = −θ in the ε channels of conv_out, 0 elsewhere, to out/1.safetensors.

    Raises:
        InputError: the base does not predict ε.
    """
    check_predicts_epsilon(load_noise_schedule(pretrained))
    base = denoiser_dir(pretrained)
    channels = read_json(base / "config.json", {"in_channels": int})["in_channels"]  # a learned variance follows them
    file = weights_file(base)
    with Tensors(file) as theta:

        def tau(key: str) -> torch.Tensor:
            value = torch.zeros(theta.layout[key][1])
            if key in LAST:
                value[:channels] = -theta.get_tensor(key)[:channels].float()
            return value

        layout = {key: (torch.float32, shape) for key, shape in theta.shapes().items()}
        recipe = {"direction": SCALE, "base_sha256": weights_hash(file)}
        stream_tensors(out / "1.safetensors", layout, tau, recipe)


UNTRAINED: dict[str, Callable[[Path, EarlyParams, Path], None]] = {EARLY: early_vector, SCALE: epsilon_vector}
