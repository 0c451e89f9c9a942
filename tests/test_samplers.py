"""The samplers beside DDIM: own timesteps, a start from nothing that is named, and the comparison of all of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import sampler_params
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from deme_core.data.images import Images, save_part
from deme_core.errors import InputError
from deme_core.report import samplers
from deme_core.report.samplers import MEAN, STOCK, calls_saved, compare_models, compare_samplers, page
from deme_core.sampling.generate import Sampler
from deme_core.sampling.schedulers import faint_start, make_scheduler
from deme_core.sampling.settings import SamplerParams

COSINE = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
LINEAR = DDPMScheduler()
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["ddim", "dpm_solver"])
def test_own_timesteps_are_taken_as_they_are(kind: str) -> None:
    own = (990, 700, 400, 100, 0)
    scheduler = make_scheduler(COSINE, sampler_params(kind=kind, steps=5, timesteps=own))
    assert scheduler.timesteps.tolist() == list(own)
    x = torch.ones(1, 1, 2, 2)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    assert bool(x.isfinite().all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timesteps": (3, 2)}, r"sampler\.timesteps = \(3, 2\): must be as many as sampler\.steps = 3"),
        ({"timesteps": (3, 3, 1)}, "must fall from step to step"),
        ({"timesteps": (3, 2, -1)}, "to 0 or above"),
        ({"timesteps": (3, 2, 1), "kind": "pndm"}, "are no way of pndm; take ddim or dpm_solver"),
    ],
)
def test_other_timesteps_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sampler_params(**{"kind": "ddim", "steps": 3, "spacing": "uniform"} | changes)


def test_timesteps_beyond_the_schedule_are_refused() -> None:
    with pytest.raises(InputError, match=r"must lie below T = 1000"):
        make_scheduler(COSINE, sampler_params(kind="ddim", steps=2, timesteps=(1000, 0)))


def test_unipc_is_diffusers_own() -> None:
    theirs = UniPCMultistepScheduler.from_config(LINEAR.config, timestep_spacing="trailing", solver_order=2)
    theirs.set_timesteps(7)
    ours = make_scheduler(LINEAR, sampler_params(kind="unipc", steps=7, spacing="trailing"))
    assert type(ours) is UniPCMultistepScheduler
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


def test_dpm_solver_is_clipped_on_the_cosine_schedule_alone() -> None:
    """With trailing spacing it started at t = 999, and gave a distance of 79 where 4 is normal."""
    params = sampler_params(kind="dpm_solver", steps=20, spacing="trailing")
    clipped, whole = (make_scheduler(schedule, params) for schedule in (COSINE, LINEAR))
    assert type(clipped) is DPMSolverMultistepScheduler
    assert float(COSINE.alphas_cumprod[int(clipped.timesteps[0])].sqrt()) > 5e-3
    assert int(whole.timesteps[0]) == 999
    assert faint_start(COSINE, params) is None


@pytest.mark.parametrize(
    ("schedule", "kind", "spacing", "faint"),
    [
        (COSINE, "ddim", "trailing", True), (COSINE, "unipc", "trailing", True), (COSINE, "ddim", "uniform", False),
        (LINEAR, "ddim", "trailing", False),
        (DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"), "ddim", "trailing", False),
    ],
)  # fmt: skip
def test_a_start_from_nothing_is_named_with_the_remedy(schedule: Any, kind: str, spacing: str, faint: bool) -> None:
    note = faint_start(schedule, sampler_params(kind=kind, steps=10, spacing=spacing))
    assert (note is not None) == faint
    if note:
        assert "starts at t = 999, where the signal is 4.9e-05" in note
        start = int(note.rpartition("start at ")[2].split()[0])
        own = tuple(np.linspace(start, 0, 10).astype(int).tolist())
        assert faint_start(schedule, sampler_params(kind="ddim", steps=10, timesteps=own)) is None


def test_sampling_from_nothing_warns_loudly(
    pipeline: Path, pipeline_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Sampler.of(pipeline, sampler_params(kind="ddim", steps=5, spacing="uniform"), CPU)
    assert "warning" not in capsys.readouterr().err
    COSINE.save_pretrained(pipeline_copy / "scheduler")
    Sampler.of(pipeline_copy, sampler_params(kind="ddim", steps=5, spacing="trailing"), CPU)
    assert "warning: sampler ddim with trailing spacing starts at t = 999" in capsys.readouterr().err


def fake(params: SamplerParams) -> dict[str, list[float]]:
    """The error falls with the calls to 1; unipc is the best, trailing pndm-like samplers are broken."""
    assert params.calls in (10, 20, 40, 80, 160)
    factor = {"unipc": 1.0, "dpm_solver": 1.2, "ddim": 1.5, "pndm": 4.0}[params.kind]
    value = factor * (1 + 10 / params.calls) + 0.1 * (params.spacing == "trailing")
    return {"a": [value, value]}


def test_the_comparison_ends_when_twice_the_calls_change_nothing() -> None:
    table = compare_samplers(fake, [10, 20], sampler_params())
    assert len(table) == 2 * len(STOCK) + 3
    assert table["calls"].tolist()[-3:] == [40, 80, 160]  # 1.25, 1.125, 1.0625: never below 2 %
    best = table[(table["of_best"] == 1) & (table["calls"] <= 20)]
    assert set(best["kind"]) == {"unipc"} and set(best["spacing"]) == {"uniform"}
    flat = compare_samplers(lambda params: {"a": [2.0 + (params.kind == "pndm")]}, [10], sampler_params())
    assert flat["calls"].tolist()[-1] == 20
    text = page(table, "Protocol.")
    assert "**BROKEN: pndm, uniform spacing, 10 calls: 4.0 times the best.**" in text
    assert "BROKEN: ddim" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert "| unipc, uniform | **2.000** | **1.500** | **1.250** | **1.125** | **1.062** |" in rows


def test_models_beside_the_base_are_paired_and_their_calls_counted() -> None:
    """Half the distance of the base everywhere: what the base has with 20 calls, 1.5, it has with 10."""
    better = lambda params: {"a": [value / 2 for value in fake(params)["a"]]}  # noqa: E731
    worse = lambda params: {"a": [2 * value for value in fake(params)["a"]]}  # noqa: E731
    table = compare_models({"neon": better, "worse": worse}, fake, [10, 20], sampler_params())
    assert len(table) == 2 * 2 * len(STOCK)
    own = table[table["model"] == "neon"]
    np.testing.assert_allclose(own[["change", "change_low", "change_high"]], -50)
    np.testing.assert_allclose(own[MEAN], own["pretrained"] / 2)
    assert calls_saved(table) == [
        "- neon reaches the pretrained model's 1.500 of 20 calls: **with 10 calls**",
        "- worse reaches the pretrained model's 1.500 of 20 calls: **not with 20 calls, but 3.000**",
    ]
    text = page(compare_samplers(fake, [10, 20], sampler_params()), "Protocol.", table)
    assert "| neon | unipc, uniform | 10 | 2.000 | 1.000 | −50.0 % [−50.0, −50.0] |" in text


def test_the_command_measures_a_real_model(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    save_part(tmp_path / "data", "train", Images(digits, torch.full((len(digits),), -1)))
    (tmp_path / "judges" / "pixels").mkdir(parents=True)
    (tmp_path / "judges" / "pixels" / "config.json").write_text('{"_class_name": "Pixels", "side": 2}')
    arguments = ["samplers", "--pipeline", pipeline, "--data", tmp_path / "data", "--judges", tmp_path / "judges"]
    arguments += ["--calls", 4, "--images", 24, "--blocks", 2, "--block", 12, "--out", tmp_path / "out"]
    monkeypatch.setattr("sys.argv", list(map(str, arguments)))
    samplers.main()
    assert "# Samplers of the pretrained model" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"samplers.md", "samplers.csv", "samplers.png"}
    monkeypatch.setattr("sys.argv", [*map(str, arguments), "--beside", f"same={pipeline}"])
    samplers.main()
    beside = pd.read_csv(tmp_path / "out" / "beside.csv")
    assert (beside["change"] == 0).all() and len(beside) == len(STOCK)
    monkeypatch.setattr("sys.argv", [*map(str, arguments), "--beside", "neon"])
    with pytest.raises(InputError, match="--beside = 'neon': must be NAME=PIPELINE"):
        samplers.main()
    monkeypatch.setattr("sys.argv", [*map(str, arguments), "--blocks", "5"])
    with pytest.raises(InputError, match="--images = 24: must be a multiple of --blocks = 5"):
        samplers.main()
