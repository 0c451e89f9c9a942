"""`finetune_range.learning_rate: auto`: the rate that short probes on the part `validation` find."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import training_params

from deme_core.data.examples import Pixels
from deme_core.errors import InputError
from deme_core.params import section
from deme_core.tensors import read_recipe, read_tensors
from deme_core.timesteps import TimestepRanges
from deme_core.training import learning_rate
from deme_core.training.finetune import expert_job, finetune
from deme_core.training.scratch import ScratchParams
from deme_core.training.settings import TrainingParams

RANGES = TimestepRanges.equal(2, 1000)
AUTO = replace(training_params(iterations=40), learning_rate="auto")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(next(folder.glob("*.safetensors")))


def finetuned(base: Path, digits: torch.Tensor, params: TrainingParams, out: Path) -> dict[str, torch.Tensor]:
    job = expert_job(RANGES, 2, 0.4, params, 0)
    finetune(job, base, Pixels(digits[:48]), out, Pixels(digits[48:]), out / "checkpoints")
    return weights(out)


def test_a_finetune_has_the_rate_that_its_probes_chose(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = finetuned(pipeline, digits, AUTO, tmp_path / "auto")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("learning rate")]
    chosen = float(said[-1].split()[-1])
    assert chosen in learning_rate.RATES[1:]  # random weights gain by more than the lowest rate gives them
    assert "4 steps" in said[0]
    known = finetuned(pipeline, digits, replace(AUTO, learning_rate=chosen), tmp_path / "known")
    assert all(torch.equal(found[key], known[key]) for key in known)


def test_nothing_above_a_rate_that_does_not_win_is_tried(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(learning_rate, "RATES", (1e-3, 3.0, 2e-3))
    finetuned(pipeline, digits, AUTO, tmp_path / "auto")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("learning rate")]
    assert [line.split()[2].rstrip(",") for line in said] == ["0.001", "3", "0.001"]
    assert "4 steps: +" in said[1]


def test_a_rate_cannot_be_found_without_images_that_no_training_sees(pipeline: Path, tmp_path: Path) -> None:
    images = Pixels(torch.zeros(8, 1, 8, 8, dtype=torch.uint8))
    for validation in (None, Pixels(images.pixels[:0]), Pixels(images.pixels[:1])):
        with pytest.raises(InputError, match=r"learning_rate = auto: fewer than two images .* raise data\.held_out"):
            finetune(expert_job(RANGES, 1, 0.4, AUTO, 0), pipeline, images, tmp_path, validation, tmp_path)


def test_a_run_that_holds_no_image_out_is_refused_before_it_starts() -> None:
    learning_rate.check_rate(AUTO, None, 0.5)
    learning_rate.check_rate(training_params(), 0.0, 0.5)
    for parts in ((0.0, 0.5), (None, 0.0), (0.2, 0.0)):
        with pytest.raises(InputError, match="fewer than two images are left to choose it by"):
            learning_rate.check_rate(AUTO, *parts)


def test_probes_count_as_training() -> None:
    assert learning_rate.most_steps(training_params(iterations=40)) == 40
    assert learning_rate.most_steps(AUTO) == 40 + 7 * 4


def test_auto_is_the_only_word(pipeline: Path) -> None:
    params = asdict(AUTO)
    assert section({"finetune_range": params}, "finetune_range", TrainingParams) == AUTO
    with pytest.raises(InputError, match=r"finetune_range\.learning_rate = 'fast': must be of type float, or auto"):
        section({"finetune_range": params | {"learning_rate": "fast"}}, "finetune_range", TrainingParams)
    with pytest.raises(InputError, match="no base yet"):
        ScratchParams(
            architecture={}, noise_schedule={}, training=replace(AUTO, consistency=0.0, projection="none", dropout=0.0)
        )


def test_a_training_of_other_length_has_the_same_schedule_over_its_length() -> None:
    params = training_params(
        iterations=2000, lr_warmup=500, lr_schedule="piecewise_constant", lr_steps="1:1000,0.5:1500,0.1"
    )
    longer, shorter = params.of_length(8000), params.of_length(200, log_every=1, checkpoint_every=1)
    assert (longer.iterations, longer.lr_warmup, longer.lr_steps) == (8000, 2000, "1:4000,0.5:6000,0.1")
    assert (shorter.iterations, shorter.lr_warmup, shorter.lr_steps) == (200, 50, "1:100,0.5:150,0.1")
    assert shorter.log_every == 1
    assert params.of_length(2000) == params
    assert params.of_length(2).lr_steps == "1:1,0.5:2,0.1"


def test_probes_run_at_their_rate_where_a_finetune_warms_up(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    """A warm-up as long as all of a probe would leave each at a part of its rate."""
    warm = replace(AUTO, lr_schedule="constant_with_warmup", lr_warmup=10)
    finetuned(pipeline, digits, warm, tmp_path / "auto")
    probes = list((tmp_path / "auto" / "checkpoints").glob("probes-*/*/diffusion*"))
    assert probes
    for file in probes:
        recipe = read_recipe(file)["finetune_range"]
        assert (recipe["iterations"], recipe["lr_warmup"]) == (4, 1)
