"""What each section of params.yaml refuses."""

import math
from dataclasses import asdict
from typing import Any

import pytest
from conftest import (
    training_params,
)

from deme_core.data.images import DataParams
from deme_core.errors import InputError
from deme_core.metrics.evaluation import EvaluateParams
from deme_core.params import section
from deme_core.sampling.settings import SamplerParams
from deme_core.search.settings import SearchParams
from deme_core.stage import RunParams, run_params
from deme_core.training.baselines import BaselineParams
from deme_core.training.scratch import PretrainParams
from deme_core.training.settings import TrainingParams

RUN = {
    "name": "x", "N": 2, "p": 0.4, "seed": 0, "boundaries": None, "baselines": [], "random_draws": 1,
    "directions": ["range"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 1.5}, r"p = 1\.5: a probability must lie in \[0, 1\]"),
        ({"p": -0.1}, r"p = -0\.1: a probability"),
        ({"p": float("nan")}, "p = nan: a probability"),
        ({"N": 0}, "N = 0: the number of ranges must be at least 1"),
        ({"baselines": "full_range"}, "baselines = 'full_range': must be a list"),
        ({"baselines": [1]}, r"baselines\[0\] = 1: must be of type str"),
        ({"seed": -1}, "seed = -1: must not be negative"),
        ({"random_draws": 0}, "random_draws = 0: must be at least 1"),
    ],
)
def test_top_level_keys_are_checked(change: dict[str, Any], message: str) -> None:
    assert isinstance(run_params(RUN), RunParams)
    with pytest.raises(InputError, match=message):
        run_params(RUN | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "iterations = 0: must be at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate = 0\.0: must be a finite number above 0"),
        ({"learning_rate": math.inf}, "learning_rate = inf: must be a finite number above 0"),
        ({"weight_decay": math.nan}, "weight_decay = nan: must be finite and not negative"),
        ({"log_every": 20, "checkpoint_every": 20}, "log_every = 20: must be at most iterations = 12"),
        ({"cpu_threads": 0}, "cpu_threads = 0: must be at least 1"),
        ({"consistency": -1.0}, r"consistency = -1\.0: must be finite and not negative"),
        ({"ema_decay": 1.0}, r"ema_decay = 1\.0: must lie in \[0, 1\)"),
        ({"antithetic": True, "batch_size": 7}, "batch_size = 7: must be even with antithetic timesteps"),
        ({"lr_steps": "1:10,0.1"}, "lr_steps = .* only with it"),
        ({"lr_schedule": "piecewise_constant"}, "lr_steps = None: is given with"),
        ({"log_every": 3}, "checkpoint_every = 4: must be a multiple of log_every = 3"),
    ],
)
def test_training_params_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        training_params(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"lr_schedule": "constnat"},
        {"lr_schedule": "piecewise_constant", "lr_steps": "no rules"},
        {"lr_schedule": "piecewise_constant", "lr_steps": "1:10,1.2.3"},
    ],
)
def test_an_unknown_learning_rate_schedule_is_refused_with_the_params(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        training_params(**change)


SEARCH: dict[str, Any] = {
    "method": "grid", "objective": "frechet", "budget": 90, "images": 10, "prompts": [], "extractors": [],
    "bounds": [-0.5, 1.5], "fixed": None,
    "values": [0.0, 1.0], "scales": [1.0, -0.5], "away": [0.5], "per_block": False, "towards_shared": 0.001,
    "seed": 0, "finalists": 1, "final_images": 40, "final_blocks": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {}, {"budget": 20}, {"images": 2}, {"final_images": 4}, {"bounds": [0.0, 0.1], "values": [0.0, 0.1]},
        {"fixed": [None, 7.0, -3.0]}, {"scales": []}, {"seed": 1 << 40}, {"extractors": ["a"]},
        {"extractors": ["a/b", "a/c"]},
    ],
)  # fmt: skip
def test_a_search_that_makes_sense_passes(change: dict[str, Any]) -> None:
    parsed = section({"merge_search": SEARCH | change}, "merge_search", SearchParams)
    assert asdict(parsed) == {k: tuple(v) if isinstance(v, list) else v for k, v in (SEARCH | change).items()}


RULE = "must be [lowest, highest] weight, lowest <= 0 < highest: w = 0 is always a candidate"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"bounds": bounds}, f"bounds = {bounds}: {RULE}") for bounds in (
            [0.0], [0.0, 0.5, 1.0], [0.1, 1.0], [-1.0, 0.0], [1.5, -0.5], [-math.inf, 1.0], [0.0, math.inf],
            [math.nan, 1.0], [0.0, math.nan],
        )),
        *(({"extractors": folders}, f"extractors = {folders}: several must lie in one folder, at which DVC looks")
          for folders in (["zoo/a/b", "zoo/c/d"], ["a", "b"], ["a/b", "/a/c"])),
        ({"values": []}, "values = []: must name at least one value"),
        ({"values": [0.0, 2.0]}, "values = [0.0, 2.0]: must lie within bounds = [-0.5, 1.5]"),
        ({"values": [-1.0]}, "values = [-1.0]: must lie within bounds = [-0.5, 1.5]"),
        ({"values": [0.5, math.nan]}, "values = [0.5, nan]: must lie within bounds"),
        ({"scales": [0.5, math.inf]}, "scales = [0.5, inf]: must be finite numbers"),
        ({"scales": [math.nan]}, "scales = [nan]: must be finite numbers"),
        ({"fixed": [None, math.inf]}, "fixed = [inf]: must be finite numbers or null"),
        ({"seed": -1}, "seed = -1: must not be negative"),
        ({"finalists": 0}, "finalists = 0: must be at least 1"),
        ({"final_blocks": 1}, "final_blocks = 1: must be at least 2"),
        ({"final_images": 41}, "final_images = 41: must be a multiple of final_blocks = 2"),
        ({"final_images": 2}, "final_images = 2: must be at least 2 a block: a covariance is estimated from them"),
        ({"images": 1}, "images = 1: must be at least 2 a block: a covariance is estimated from them"),
        ({"budget": 19}, "budget = 19: must be at least 2 × images = 20: w = 0 and w = 1/N"),
    ],
)  # fmt: skip
def test_a_search_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        section({"merge_search": SEARCH | change}, "merge_search", SearchParams)
    assert f"merge_search.{message}" in str(refused.value)


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (DataParams, {"source": "digits", "path": None, "size": 8, "held_out": 1.0}, r"data\.held_out = 1\.0"),
        (DataParams, {"source": "digits", "path": None, "size": 0, "held_out": 0.2}, r"data\.size = 0"),
        (EvaluateParams, {"blocks": 1}, r"evaluate\.blocks = 1: must be at least 2"),
        (
            SamplerParams,
            {"kind": "ddpm", "steps": 10, "spacing": "quadratic", "block": 4, "dtype": "float32"},
            r"sampler\.spacing = 'quadratic': is quadratic with the ddim sampler only",
        ),
        (PretrainParams, {"source": "train", "revision": None, "train": None}, r"pretrain_load\.train = None"),
        (BaselineParams, {"gamma": 0.0}, r"finetune_baseline\.gamma = 0\.0: must be a finite number above 0"),
        (BaselineParams, {"gamma": -5.0}, r"finetune_baseline\.gamma = -5\.0: must be"),
        (BaselineParams, {"gamma": math.inf}, r"finetune_baseline\.gamma = inf: must be"),
        (BaselineParams, {"gamma": math.nan}, r"finetune_baseline\.gamma = nan: must be"),
    ],
)
def test_sections_refuse_what_makes_no_sense(cls: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        section({"any": values}, "any", cls)


def test_a_base_is_trained_without_teacher_and_projection() -> None:
    train = {
        "architecture": {}, "noise_schedule": {},
        "training": asdict(training_params(consistency=0.0, projection="none")),
    }  # fmt: skip
    load = {"source": "train", "revision": None, "train": train}
    parsed = section({"pretrain_load": load}, "pretrain_load", PretrainParams)
    assert isinstance(parsed.train.training, TrainingParams)
    for key, value in (("consistency", 1.0), ("projection", "foldable")):
        changed = load | {"train": train | {"training": train["training"] | {key: value}}}
        with pytest.raises(InputError, match=f"{key} = "):
            section({"pretrain_load": changed}, "pretrain_load", PretrainParams)
