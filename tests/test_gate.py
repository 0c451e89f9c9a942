"""The gate: experts that have learned their range pass, one that has not ends the run before the search."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import REPOSITORY, stage, training_params

from deme_core.checkpoints import load_denoiser, load_noise_schedule
from deme_core.data.examples import Pixels
from deme_core.data.images import Images, save_part
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.metrics.intervals import t_interval
from deme_core.timesteps import TimestepRanges
from deme_core.training.finetune import expert_job, finetune
from deme_core.training.gate import GateParams, check_gate, compare_experts, measure_experts, refuse_losers
from deme_core.training.range_losses import image_losses

CPU = torch.device("cpu")
RANGES = TimestepRanges.equal(2, 1000)


def losses(*changes: float) -> tuple[list[np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of experts on their own range, whose loss is that of the base plus `changes`; of the base and another model, on
    images that they do not know, and on such that they were trained on.
    """
    rng = np.random.default_rng(0)
    base = rng.uniform(0.1, 0.2, (2, 50))
    experts = [row + change * rng.uniform(0.5, 1.5, 50) for row, change in zip(base, changes, strict=True)]
    return experts, {"pretrained": base, "full_range": base - 0.005}, {"pretrained": 0.95 * base, "full_range": base}


def test_experts_are_compared_on_their_own_range_image_by_image() -> None:
    experts, others, known = losses(-0.01, 0.0)
    table = compare_experts(experts, others, known, RANGES)
    assert table[["expert", "range", "against"]].values.tolist() == [
        [1, "[0, 500)", "pretrained"], [2, "[500, 1000)", "pretrained"],
        [1, "[0, 500)", "full_range"], [2, "[500, 1000)", "full_range"],
    ]  # fmt: skip
    base = others["pretrained"][0]
    change = t_interval(100 * (experts[0] - base) / base.mean())
    assert table.loc[0, ["change", "low", "high"]].tolist() == pytest.approx([change.value, change.low, change.high])
    assert table.loc[0, "loss"] == pytest.approx(experts[0].mean())
    assert table["wins"].tolist() == [True, False, True, False]  # no change is no gain
    means = [*known["pretrained"].mean(1), *known["full_range"].mean(1)]
    assert table["loss_trained"].tolist() == pytest.approx(means)
    with pytest.raises(InputError, match=r"1 of 2 experts .*expert 2 on \[500, 1000\): \+0\.00 %.*Lower finetune_"):
        refuse_losers(table)
    memorised = compare_experts(experts, others, {name: 0.6 * loss for name, loss in others.items()}, RANGES)
    with pytest.raises(InputError, match=r"loss is 40 % lower on images that it was trained on.*a smaller base"):
        refuse_losers(memorised)
    refuse_losers(compare_experts(*losses(-0.01, -0.01), RANGES))


def test_a_gate_needs_images() -> None:
    stop = GateParams(draws=1, must_win="stop")
    check_gate(stop, 0.2, 0.5)
    check_gate(stop, None, 0.5)
    check_gate(replace(stop, must_win="ignore"), 0.0, 0.0)
    with pytest.raises(InputError, match=r"data\.validation = 0\.0 leaves it no image"):
        check_gate(stop, None, 0.0)
    with pytest.raises(InputError, match=r"data\.held_out = 0\.0 leaves it no image; .* gate\.must_win=ignore"):
        check_gate(replace(stop, must_win="warn"), 0.0, 0.5)


def test_losses_of_images_do_not_depend_on_the_others(pipeline: Path, digits: torch.Tensor) -> None:
    schedule, denoise = load_noise_schedule(pipeline), single(load_denoiser(pipeline / "unet"), CPU)
    found = image_losses(denoise, schedule, Pixels(digits), RANGES, 3, CPU)
    assert found.shape == (2, len(digits))
    assert len(np.unique(found)) == found.size
    again = image_losses(denoise, schedule, Pixels(digits), RANGES, 3, CPU)
    np.testing.assert_array_equal(found, again)
    (second,) = image_losses(denoise, schedule, Pixels(digits), RANGES, 3, CPU, which=[2])
    np.testing.assert_array_equal(second, found[1])


@pytest.mark.timeout(600)
def test_an_expert_trained_at_a_ruinous_rate_ends_the_run_before_the_search(
    digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the stage itself, on the shipped base: the line, no mark for the search, and the expert still there."""
    base, examples = REPOSITORY / "zoo" / "digits-ddpm", tmp_path / "examples"
    params = training_params(iterations=30, learning_rate=0.3, projection="none", consistency=0.0)
    experts = tmp_path / "experts"
    for part in ("train", "validation"):
        save_part(examples, part, Images(digits, torch.full((len(digits),), -1)))
    for i in (1, 2):
        job = expert_job(RANGES, i, 0.0, params, 0)
        finetune(job, base, Pixels(digits), experts / str(i), checkpoints=tmp_path / "work")
    weights = (experts / "1" / "diffusion_pytorch_model.safetensors").read_bytes()
    default = yaml.safe_load((REPOSITORY / "params.yaml").read_text())

    def gate(must_win: str) -> None:
        Path("params.yaml").write_text(yaml.safe_dump(default | {"gate": {"draws": 2, "must_win": must_win}}))
        stage(
            "gate", "--examples", examples, "--pretrained", base, "--experts", experts, "--full-range", "none",
            "--out", "experts.csv", "--passed", "passed", monkeypatch=monkeypatch,
        )  # fmt: skip

    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SystemExit, match="error: gate: 2 of 2 experts do not lower the base's validation loss on their"
    ):
        gate("stop")
    assert not Path("passed").exists()
    assert (experts / "1" / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    assert (pd.read_csv("experts.csv")["low"] > 0).all()
    shutil.copy("experts.csv", "first.csv")
    gate("warn")
    assert Path("experts.csv").read_bytes() == Path("first.csv").read_bytes()
    assert Path("passed").exists()
    gate("ignore")
    assert len(pd.read_csv("experts.csv")) == 0


def test_one_validation_image_is_refused_in_words(pipeline: Path, experts: list[Path], digits: torch.Tensor) -> None:
    for images in (0, 1):
        few = Pixels(digits[:images])
        with pytest.raises(InputError, match=rf"^gate: {images} images in the part `validation`, of which there is no"):
            measure_experts(few, Pixels(digits), pipeline, experts[0].parent, {}, 1, CPU)
