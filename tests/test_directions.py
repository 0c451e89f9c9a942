"""Directions without a training: the task vector of an earlier checkpoint, that which scales ε, and their searches."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURE, sampler_params, write_pipeline
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from searching import STEPS, Counted, quadratic, search_params

from deme_core.checkpoints import WEIGHTS, denoiser_dir, load_denoiser
from deme_core.errors import InputError
from deme_core.merging.merge import write_merged
from deme_core.merging.task_vectors import vector_files
from deme_core.merging.untrained import UNTRAINED, EarlyParams, check_untrained
from deme_core.sampling.generate import Sampler, single
from deme_core.search.kinds import KINDS
from deme_core.search.lines import EARLY, EPSILON, LINES
from deme_core.search.search import search
from deme_core.search.trials import TrialLog
from deme_core.seeds import SeedBlock
from deme_core.tensors import read_recipe, read_tensors, weights_hash

CPU, NONE = torch.device("cpu"), EarlyParams(source=None)


def merged(pipeline: Path, name: str, w: float, folder: Path, early: EarlyParams = NONE) -> Path:
    """The pipeline θ + wτ of a direction, and its task vector beside it."""
    UNTRAINED[name](pipeline, early, folder / "vectors")
    files = vector_files(folder / "vectors")
    assert read_recipe(files[0])["direction"] == name
    write_merged(pipeline, files, [w], folder / "merged", {"search": None})  # refuses vectors of another θ
    return folder / "merged"


@torch.inference_mode()
def predicted(pipeline: Path) -> torch.Tensor:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return load_denoiser(denoiser_dir(pipeline))(x, torch.tensor([0, 500, 999])).sample


@pytest.mark.parametrize("w", [0.02, -0.02])
def test_a_step_along_scale_is_a_factor_on_epsilon(pipeline: Path, tmp_path: Path, w: float) -> None:
    made = merged(pipeline, "scale", w, tmp_path)
    assert torch.allclose(predicted(made), (1 - w) * predicted(pipeline), rtol=1e-5, atol=1e-6)
    tau = read_tensors(tmp_path / "vectors" / "1.safetensors")
    theta = read_tensors(denoiser_dir(pipeline) / WEIGHTS)
    assert {key for key, value in tau.items() if value.any()} == {"conv_out.weight", "conv_out.bias"}
    assert torch.equal(tau["conv_out.weight"], -theta["conv_out.weight"])


def test_stock_diffusers_samples_with_the_scaled_epsilon(pipeline: Path, tmp_path: Path) -> None:
    """The images are those of the base with a factor in the sampling loop."""
    made = merged(pipeline, "scale", 0.02, tmp_path)
    sampler = Sampler.of(pipeline, sampler_params(block=4), CPU)
    base = single(load_denoiser(denoiser_dir(pipeline)), CPU)
    images = sampler.images(lambda x, t, **condition: 0.98 * base(x, t, **condition), SeedBlock.BASE, 0, 4)
    folded = sampler.images(single(load_denoiser(denoiser_dir(made)), CPU), SeedBlock.BASE, 0, 4)
    assert (images.int() - folded.int()).abs().max() <= 1  # rounding of a sum
    assert not torch.equal(folded, sampler.images(base, SeedBlock.BASE, 0, 4))
    assert DiffusionPipeline.from_pretrained(made)(num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)


def test_a_learned_variance_is_not_scaled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = UNet2DModel(**ARCHITECTURE | {"out_channels": 2})
    DDPMPipeline(unet, DDPMScheduler(variance_type="learned_range")).save_pretrained(tmp_path / "base")
    before, after = predicted(tmp_path / "base"), predicted(merged(tmp_path / "base", "scale", 0.05, tmp_path))
    assert torch.allclose(after[:, :1], 0.95 * before[:, :1], rtol=1e-5, atol=1e-6)
    assert torch.equal(after[:, 1:], before[:, 1:])


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_only_a_prediction_of_epsilon_is_scaled(tmp_path: Path, kind: str) -> None:
    base = write_pipeline(tmp_path / "base", prediction_type=kind)
    with pytest.raises(InputError, match=rf"^params: directions: scale: the base predicts '{kind}', and only"):
        UNTRAINED["scale"](base, NONE, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("folder", [".", "unet"])
def test_a_step_away_from_an_earlier_checkpoint_goes_on_beyond_the_base(
    pipeline: Path, tmp_path: Path, folder: str
) -> None:
    early = write_pipeline(tmp_path / "early", seed=1)
    made = merged(pipeline, "early", -0.1, tmp_path, EarlyParams(source=str(early / folder)))
    theta, theta_e, result = (read_tensors(denoiser_dir(one) / WEIGHTS) for one in (pipeline, early, made))
    for key, value in theta.items():
        assert torch.allclose(result[key], 1.1 * value - 0.1 * theta_e[key], atol=1e-6), key
    assert read_recipe(tmp_path / "vectors" / "1.safetensors")["expert_sha256"] == weights_hash(
        denoiser_dir(early) / WEIGHTS
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_out_channels": [8, 16]}, "early/unet and .*unet are different architectures: '"),
        ({"layers_per_block": 2}, "early/unet and .*unet are different architectures: .* has 'down_blocks"),
    ],
)
def test_an_earlier_checkpoint_of_another_architecture_is_refused(
    pipeline: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    DDPMPipeline(UNet2DModel(**ARCHITECTURE | change), DDPMScheduler()).save_pretrained(tmp_path / "early")
    early = EarlyParams(source=str(tmp_path / "early"))
    with pytest.raises(InputError, match=message):
        UNTRAINED["early"](pipeline, early, tmp_path / "out")
    with pytest.raises(InputError, match=message):
        check_untrained(("range", "early"), early, pipeline)
    check_untrained(("range", "self"), early, pipeline)  # nobody asked for it
    assert not (tmp_path / "out").exists()


def test_the_base_itself_and_what_is_no_folder_are_no_earlier_checkpoint(
    pipeline: Path, pipeline_copy: Path, tmp_path: Path
) -> None:
    same = EarlyParams(source=str(pipeline_copy))
    with pytest.raises(InputError, match=rf"^params: early.source = '{pipeline_copy}': holds the base itself"):
        UNTRAINED["early"](pipeline, same, tmp_path / "out")
    for source in (None, "no/such/folder"):
        rule = f"params: early.source = {source!r}: the direction early needs the folder of an earlier checkpoint"
        with pytest.raises(InputError, match=f"^{re.escape(rule)}"):
            check_untrained(("range", "early"), EarlyParams(source=source), None)


def test_a_broken_earlier_checkpoint_is_refused(pipeline: Path, pipeline_copy: Path, tmp_path: Path) -> None:
    model = load_denoiser(denoiser_dir(pipeline_copy))
    with torch.no_grad():
        model.conv_in.weight[0] = torch.nan
    model.save_pretrained(denoiser_dir(pipeline_copy))
    with pytest.raises(InputError, match=r"'conv_in\.weight' holds NaN or infinite values"):
        UNTRAINED["early"](pipeline, EarlyParams(source=str(pipeline_copy)), tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "optimum", "found", "values"),
    [("early", -0.09, -0.1, EARLY), ("epsilon", 0.019, 0.02, EPSILON), ("epsilon", -0.011, -0.01, EPSILON)],
)
def test_a_line_is_searched_on_its_own_lengths_and_confirmed_beside_its_own_step(
    tmp_path: Path, kind: str, optimum: float, found: float, values: tuple[float, ...]
) -> None:
    """Not beside w = 1/N, which makes ε 0."""
    score, params = Counted(quadratic((optimum,))), KINDS[kind](search_params(), 1)
    anchor = LINES[kind].anchor
    result = search(score, score, 1, params, TrialLog(tmp_path / "trials.csv", 1), STEPS)  # type: ignore[arg-type]
    assert [w for w, *_ in score.of(SeedBlock.SEARCH)] == [(w,) for w in (0.0, anchor, *values)]
    assert {(0.0,), (anchor,)} <= {w for w, *_ in score.of(SeedBlock.CONFIRM)}
    assert (result.method, result.weights) == (kind, [found])
