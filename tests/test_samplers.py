"""The samplers beside DDIM: own timesteps, a start from nothing that is named, and the comparison of all of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import sampler_params
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from deme_core.errors import InputError
from deme_core.report.samplers import MEAN, STOCK, calls_saved, compare_models, compare_samplers, page, refusals
from deme_core.sampling.generate import Sampler
from deme_core.sampling.schedulers import check_sampler, faint_start, make_scheduler
from deme_core.sampling.settings import SamplerParams, sampler_of

COSINE = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
LINEAR = DDPMScheduler()
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["ddim", "ddpm", "dpm_solver"])
def test_own_timesteps_are_taken_as_they_are(kind: str) -> None:
    timesteps = (990, 700, 400, 100, 0)
    scheduler = make_scheduler(COSINE, sampler_params(kind=kind, steps=5, timesteps=timesteps))
    assert scheduler.timesteps.tolist() == list(timesteps)
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
        ({"timesteps": (3, 2, 1), "kind": "pndm"}, "are no way of pndm; take ddim, ddpm, dpm_solver"),
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
        timesteps = tuple(np.linspace(start, 0, 10).astype(int).tolist())
        assert faint_start(schedule, sampler_params(kind="ddim", steps=10, timesteps=timesteps)) is None


ZERO = {"rescale_betas_zero_snr": True}
ENDING = {"trained_betas": [*np.linspace(1e-4, 0.02, 999).tolist(), 1.0]}  # no signal either, but no flag that says so
UNCLIPPED = {"clip_sample": False}
V = {"prediction_type": "v_prediction"}


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (ZERO | UNCLIPPED, {"kind": "ddim"}, r"sampler ddim with trailing spacing starts at t = 999, where the signal"),
        (
            ENDING | UNCLIPPED,
            {"kind": "ddpm"},
            "the signal is 0.0e\\+00: .* Take another sampler.spacing, or sampler.ti",
        ),
        (ZERO, {"kind": "dpm_solver"}, "sampler dpm_solver with trailing spacing starts at t = 999"),  # never clips
        (ZERO, {"kind": "unipc"}, r"sampler\.timesteps that start at 984 or below"),
        (
            {"beta_end": 1.0} | UNCLIPPED,
            {"kind": "ddim", "spacing": "uniform"},
            "starts at t = 900, where the signal is",
        ),
        (ENDING | V, {"kind": "dpm_solver"}, "divides by a signal or a noise of 0 between t = 999 and 99"),
        ({"beta_end": 1.0} | V, {"kind": "ddpm"}, "so that nothing finite comes out; take another sampler.spacing"),
        (ZERO | V, {"kind": "pndm"}, r"sampler\.kind = 'pndm' .*: knows no rescale_betas_zero_snr"),
        ({"prediction_type": "sample"}, {"kind": "pndm"}, r"is none for this model \(prediction_type given as sample"),
        ({"beta_schedule": "sigmoid"}, {"kind": "ddim"}, "sigmoid is not implemented .*; take another sampler.kind"),
        ({}, {"kind": "ddim", "steps": 61}, "visits t = -1, where its spacing should fall within 0 … 999; take an"),
        ({"steps_offset": 1}, {"kind": "ddim", "steps": 1000, "spacing": "uniform"}, "visits t = 1000, where"),
        ({}, {"kind": "dpm_solver", "steps": 1000, "spacing": "uniform"}, "visits t = 0 all the time"),
    ],
)
def test_a_sampler_that_cannot_work_with_a_noise_schedule_is_refused(
    config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    params = sampler_params(**{"spacing": "trailing", "steps": 10} | changes)
    with pytest.raises(InputError, match=message) as error:
        check_sampler(DDPMScheduler(**config), params, latents=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (ZERO, {"kind": "ddim"}), (ZERO | {"thresholding": True}, {"kind": "dpm_solver"}),  # bounded, and warned of
        *((ZERO | UNCLIPPED | V, {"kind": kind}) for kind in ("ddim", "ddpm", "dpm_solver", "unipc")),
        (ZERO | UNCLIPPED, {"kind": "dpm_solver", "spacing": "uniform"}),  # starts at t = 900
        (ZERO | UNCLIPPED, {"kind": "ddim", "timesteps": tuple(range(998, 8, -99))}),
        *(({}, {"kind": kind, "spacing": "linspace"}) for kind in ("ddim", "ddpm", "pndm", "dpm_solver", "unipc")),
    ],
)  # fmt: skip
def test_a_sampler_that_can_work_is_not_and_nothing_is_drawn(config: dict[str, Any], changes: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    check_sampler(DDPMScheduler(**config), sampler_params(**{"spacing": "trailing", "steps": 10} | changes), False)
    assert torch.equal(torch.get_rng_state(), before)


def test_latents_are_never_clipped_so_that_no_signal_is_refused() -> None:
    params = sampler_params(kind="ddim", spacing="trailing", steps=10)
    check_sampler(DDPMScheduler(**ZERO), params, latents=False)
    with pytest.raises(InputError, match="starts at t = 999"):
        check_sampler(DDPMScheduler(**ZERO), params, latents=True)


SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    ("config", "steps", "latents", "message"),
    [
        (SD, 10, False, r"sampler\.timesteps = 'ays': is a table for the latents .* set null, or a list of your own"),
        ({}, 10, True, "is a table for the latents and the noise schedule of Stable Diffusion 1"),
        (SD | {"num_train_timesteps": 100}, 10, True, "is a table for"),
        (SD | V, 10, True, "is a table for"),
        (SD, 20, True, r"sampler\.steps = 20: must be 10 with sampler\.timesteps = ays"),
    ],
)
def test_align_your_steps_is_refused_elsewhere(
    config: dict[str, Any], steps: int, latents: bool, message: str
) -> None:  # fmt: skip
    with pytest.raises(InputError, match=message):
        check_sampler(DDPMScheduler(**config), sampler_params(steps=steps, timesteps="ays"), latents)


def test_a_name_of_timesteps_is_read_from_params() -> None:
    sampler = {"kind": "ddim", "steps": 10, "spacing": "uniform", "block": 4, "dtype": "float32"}
    read = [sampler_of({"sampler": sampler | {"timesteps": value}}).timesteps for value in ("ays", None)]
    assert read == ["ays", None]
    assert sampler_of({"sampler": sampler | {"steps": 2, "timesteps": [9, 0]}}).timesteps == (9, 0)
    for value, message in (("sdxl", "'sdxl': must be a list, or ays"), (10, "10: must be a list")):
        with pytest.raises(InputError, match=rf"sampler\.timesteps = {message}"):
            sampler_of({"sampler": sampler | {"timesteps": value}})
    with pytest.raises(InputError, match=r"sampler\.timesteps = 'ays': are no way of unipc; take ddim, ddpm, dpm_sol"):
        sampler_of({"sampler": sampler | {"kind": "unipc", "timesteps": "ays"}})


def test_a_sampler_that_cannot_work_samples_nothing(pipeline_copy: Path) -> None:
    DDPMScheduler(**ZERO | UNCLIPPED).save_pretrained(pipeline_copy / "scheduler")
    with pytest.raises(InputError, match="params: sampler ddim with trailing spacing starts at t = 999"):
        Sampler.of(pipeline_copy, sampler_params(kind="ddim", spacing="trailing"), CPU)


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


def test_samplers_that_cannot_work_are_left_out_and_named() -> None:
    refused = refusals(DDPMScheduler(**ZERO | UNCLIPPED), [10, 20], sampler_params())
    left = {("ddim", "trailing"), ("dpm_solver", "trailing"), ("unipc", "trailing"), ("pndm", "uniform")}
    assert refused.keys() == {(*one, count) for one in left for count in (10, 20)}
    table = compare_samplers(fake, [10, 20], sampler_params(), refused)
    assert len(table) == 2 * (len(STOCK) - 4) + 3
    assert len(compare_models({"same": fake}, fake, [10, 20], sampler_params(), refused)) == 2 * (len(STOCK) - 4)
    assert "- left out: sampler ddim with trailing spacing starts at t = 999" in page(table, "", None, refused)


def test_the_comparison_ends_where_a_model_has_no_more_timesteps(capsys: pytest.CaptureFixture[str]) -> None:
    def few(params: SamplerParams) -> dict[str, list[float]]:
        if params.steps > 30:
            raise InputError("too many")
        return fake(params)

    assert compare_samplers(few, [10, 20], sampler_params())["calls"].max() == 20
    assert "warning: too many" in capsys.readouterr().err


def test_models_beside_the_base_are_paired_and_their_calls_counted() -> None:
    """Half the distance of the base everywhere: what the base has with 20 calls, 1.5, it has with 10."""
    better = lambda params: {"a": [value / 2 for value in fake(params)["a"]]}  # noqa: E731
    worse = lambda params: {"a": [2 * value for value in fake(params)["a"]]}  # noqa: E731
    table = compare_models({"neon": better, "worse": worse}, fake, [10, 20], sampler_params())
    assert len(table) == 2 * 2 * len(STOCK)
    neon = table[table["model"] == "neon"]
    np.testing.assert_allclose(neon[["change", "change_low", "change_high"]], -50)
    np.testing.assert_allclose(neon[MEAN], neon["pretrained"] / 2)
    assert calls_saved(table) == [
        "- neon reaches the pretrained model's 1.500 of 20 calls: **with 10 calls**",
        "- worse reaches the pretrained model's 1.500 of 20 calls: **not with 20 calls, but 3.000**",
    ]
    text = page(compare_samplers(fake, [10, 20], sampler_params()), "Protocol.", table)
    assert "| neon | unipc, uniform | 10 | 2.000 | 1.000 | −50.0 % [−50.0, −50.0] |" in text
