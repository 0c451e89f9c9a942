"""Params: every key is checked and named; params.yaml is what Hydra composes from conf/."""

import json
import math
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from conftest import (
    ARCHITECTURE,
    ASKED,
    REPOSITORY,
    make_what_is_named,
    stage,
    training_params,
    write_pipeline,
)
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from deme_core.dag import BASELINES, dag
from deme_core.data.images import DataParams, Images, save_part
from deme_core.errors import InputError
from deme_core.inputs import inputs
from deme_core.metrics.evaluation import EvaluateParams
from deme_core.params import read, section
from deme_core.sampling.settings import SamplerParams
from deme_core.search.settings import SearchParams
from deme_core.stage import RunParams, run, run_params
from deme_core.training.baselines import BaselineParams
from deme_core.training.scratch import PretrainParams
from deme_core.training.settings import TrainingParams

PRESETS = sorted(path.stem for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml"))


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int


@dataclass(frozen=True, kw_only=True)
class Example:
    count: int
    rate: float
    flag: bool
    name: str
    kind: Literal["a", "b"]
    maybe: int | None
    values: tuple[float, ...]
    table: dict[str, Any]
    inner: Inner | None


GOOD: dict[str, Any] = {
    "count": 3, "rate": 0.5, "flag": True, "name": "x", "kind": "a", "maybe": 1, "values": [0.0, 1.5],
    "table": {"any": 1}, "inner": {"depth": 2},
}  # fmt: skip


def parse(**changes: Any) -> Example:
    return section({"example": GOOD | changes}, "example", Example)


def test_a_section_becomes_its_dataclass() -> None:
    expected = Example(
        count=3, rate=0.5, flag=True, name="x", kind="a", maybe=1, values=(0.0, 1.5), table={"any": 1},
        inner=Inner(depth=2),
    )  # fmt: skip
    assert parse() == expected


def test_a_missing_section_is_named_with_those_present() -> None:
    with pytest.raises(InputError, match="section 'example' is missing; present are data, sample"):
        section({"sample": {}, "data": {}}, "example", Example)


@pytest.mark.parametrize("value", [None, 3, [1], "x"])
def test_a_value_in_place_of_a_section_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"example = {value!r} must be a section with keys")):
        section({"example": value}, "example", Example)


def test_an_unknown_key_is_named_with_the_valid_ones() -> None:
    valid = "count, flag, inner, kind, maybe, name, rate, table, values"
    with pytest.raises(
        InputError, match=rf"unknown key example\.cuont, did you mean example\.count\?; valid keys are {valid}"
    ):
        parse(cuont=3)
    with pytest.raises(InputError, match=rf"unknown key example\.zzz; valid keys are {valid}"):
        parse(zzz=3)


def test_an_unknown_key_of_a_nested_section_is_named_with_its_path() -> None:
    with pytest.raises(InputError, match=r"unknown key example\.inner\.dpeth, did you mean example\.inner\.depth\?"):
        parse(inner={"depth": 2, "dpeth": 2})


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(InputError, match=rf"example\.{key} is missing"):
        section({"example": {k: v for k, v in GOOD.items() if k != key}}, "example", Example)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("count", 3.0, "must be of type int"),
        ("count", "3", "must be of type int"),
        ("count", True, "must be of type int"),
        ("count", None, "must be of type int"),
        ("rate", "0.5", "must be of type float"),
        ("rate", False, "must be of type float"),
        ("flag", 1, "must be of type bool"),
        ("flag", "yes", "must be of type bool"),
        ("name", 7, "must be of type str"),
        ("kind", "c", "must be one of a, b"),
        ("maybe", "1", "must be of type int"),
        ("values", 0.5, "must be a list"),
        ("table", [1], "must be of type dict"),
    ],
)
def test_a_value_of_another_type_is_refused_with_key_value_and_rule(key: str, value: Any, rule: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"example.{key} = {value!r}: {rule}")):
        parse(**{key: value})


def test_an_entry_of_a_list_is_named_by_its_position() -> None:
    with pytest.raises(InputError, match=re.escape("example.values[1] = 'x': must be of type float")):
        parse(values=[0.0, "x"])


def test_an_int_is_a_float_and_null_is_none() -> None:
    parsed = parse(rate=1, values=[0, 1], maybe=None, inner=None)
    assert (parsed.rate, parsed.values, parsed.maybe, parsed.inner) == (1.0, (0.0, 1.0), None, None)
    assert all(type(number) is float for number in (parsed.rate, *parsed.values))


def test_scientific_notation_without_a_point_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("rate: 1e-4\ncopy: ${rate}\n")
    assert read(tmp_path / "params.yaml") == {"rate": 1e-4, "copy": 1e-4}


def test_a_missing_params_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.yaml: no such params file"):
        read(tmp_path / "nothing.yaml")


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


def composed(*overrides: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `dvc exp run -S ...` writes into params.yaml."""
    monkeypatch.syspath_prepend(REPOSITORY / "hydra_plugins")
    sys.modules.pop("resolvers", None)
    __import__("resolvers")
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
        return OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)


def test_params_yaml_is_what_conf_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    committed = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert read(REPOSITORY / "params.yaml") == composed(monkeypatch=monkeypatch)
    assert committed["dag"] == dag(committed["N"], committed["baselines"], directions=committed["directions"])


@pytest.mark.parametrize("N", [1, 2, 8])
def test_the_dag_follows_N(N: int, monkeypatch: pytest.MonkeyPatch) -> None:
    section = composed(f"N={N}", monkeypatch=monkeypatch)["dag"]
    assert section == dag(N, [], directions=ASKED)
    assert section["ranges"] == list(range(1, N + 1))


@pytest.mark.parametrize(
    ("group", "expected"), [("none", []), ("core", ["full_range", "soup_full_range"]), ("all", list(BASELINES))]
)
def test_the_dag_follows_the_group_of_baselines(
    group: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = composed("N=2", f"baselines={group}", monkeypatch=monkeypatch)
    assert params["baselines"] == expected
    assert params["dag"] == dag(2, expected, directions=ASKED)
    apart = set(params) - {"baselines", "dag"}
    without = composed("N=2", monkeypatch=monkeypatch)
    assert {key: params[key] for key in apart} == {key: without[key] for key in set(without) - {"baselines", "dag"}}


def test_an_unknown_group_of_baselines_is_refused_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingConfigException) as error:
        composed("baselines=everyone", monkeypatch=monkeypatch)
    assert all(name in str(error.value) for name in ("baselines/everyone", "none", "core", "all"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.p=0.3", "'run.p' is unknown, did you mean p?"),
        (
            "finetune_range.batchsize=3",
            "'finetune_range.batchsize' is unknown, did you mean finetune_range.batch_size?",
        ),
        ("iterations=3", "'iterations' is unknown, did you mean finetune_range.iterations?"),
        ("zzz=1", "'zzz' is unknown"),
        ("experiment=digit", "Could not find 'experiment/digit'"),
        ("N=[1", "no viable alternative at input '[1'"),
        ("N=x", "params: invalid literal for int() with base 10: 'x'"),
        ("directions=[range,foo]", "params: directions: 'foo' is unknown; known are range, self"),
    ],
)
def test_an_override_that_is_refused_ends_in_one_line(
    override: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "conf")
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        __import__("compose").compose_params([override])
    assert "\n" not in str(refused.value)


def test_a_section_that_was_added_for_a_key_is_told_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"params: run\.p = '…': unknown key, did you mean p\?; valid keys are"):
        validate(composed("+run.p=0.3", monkeypatch=monkeypatch), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.source=folder", "data.path=my pictures"], "data.path = 'my pictures': no such file or folder in {cwd}"),
        (["data.source=parquet", "data.path=rows/*.parquet"], "data.path = 'rows/*.parquet': no such"),
        (["reference.statistics=a.npz"], "reference.statistics = 'a.npz': no such"),
        (["reference.extractor=zoo/nothing"], "reference.extractor = 'zoo/nothing': no such"),
        (["pretrain_load.source=my models/base"], "pretrain_load.source = 'my models/base': no such"),
        (["pretrain_load.source=./base"], "pretrain_load.source = './base': no such"),
        (["pretrain_load.source=base"], "pretrain_load.source = 'base': no such"),
        (["pretrain_load.source=zoo/base"], "pretrain_load.source = 'zoo/base': no such"),
        (["pretrain_load.source='~/base'"], "pretrain_load.source = '~/base': ~ is no home folder here, {home}"),
        (["+prompts.a={source: file, path: a.txt}"], "prompts.a.path = 'a.txt': no such"),
        (["data.held_out=0", "gate.must_win=ignore", "calibrate.value=1", "calibrate.source=x",
          "calibrate.metric=frechet_heldout"],
         "calibrate.metric = 'frechet_heldout': data.held_out = 0: hold some out"),
        (["data.held_out=0", "gate.must_win=ignore", "+prompts.a={source: heldout, path: data/images}"],
         "prompts.a.source = 'heldout': data.held_out = 0: hold some out"),
    ],
)  # fmt: skip
def test_validate_refuses_what_is_not_there(
    overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = f"since DVC looks at paths as they stand; write {Path.home()}/base"
    with pytest.raises(SystemExit) as stopped:
        validate(composed(*overrides, monkeypatch=monkeypatch), tmp_path, monkeypatch)
    assert f"error: params: {message.format(cwd=tmp_path, home=home)}" in str(stopped.value.code)
    assert "\n" not in str(stopped.value.code)


def validate(params: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run the stage validate on these params in `folder`; whether it left its mark."""
    OmegaConf.save(OmegaConf.create(params), folder / "params.yaml")
    monkeypatch.syspath_prepend(REPOSITORY / "stages")
    sys.modules.pop("validate", None)
    stage = __import__("validate")
    monkeypatch.chdir(folder)
    for name in ("zoo", "prompts"):
        if not (folder / name).exists():
            (folder / name).symlink_to(REPOSITORY / name)
    monkeypatch.setattr(sys, "argv", ["validate.py", "--out", str(folder / "checked")])
    run(stage.main)
    return (folder / "checked").is_file()


@pytest.mark.parametrize("baselines", ["none", "core", "all"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_with_the_keys_of_the_default_and_passes_validation(
    preset: str, baselines: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params = composed(f"experiment={preset}", f"baselines={baselines}", monkeypatch=monkeypatch)
    assert set(params) == set(composed(monkeypatch=monkeypatch))
    assert params["name"] == preset
    make_what_is_named(params, tmp_path)
    assert validate(params, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("directions=[range,early]",), "params: early.source = None: the direction early needs the folder of"),
        (("directions=[range,early]", "early.source=owner/name"), "params: early.source = 'owner/name': the direction"),
        (
            ("directions=[range,early]", f"early.source={REPOSITORY}/zoo/fashion-mnist-16-ddpm"),
            f"{REPOSITORY}/zoo/fashion-mnist-16-ddpm/unet and {REPOSITORY}/zoo/digits-ddpm/unet are different",
        ),
    ],
)
def test_validate_refuses_an_earlier_checkpoint_that_is_none_in_one_line(
    overrides: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = f"pretrain_load.source={REPOSITORY}/zoo/digits-ddpm"
    with pytest.raises(SystemExit) as stopped:
        validate(composed(base, *overrides, monkeypatch=monkeypatch), tmp_path, monkeypatch)
    assert str(stopped.value.code).startswith(f"error: {message}")
    assert "\n" not in str(stopped.value.code)


def test_validate_refuses_to_scale_what_does_not_predict_the_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for kind in ("epsilon", "v_prediction"):
        write_pipeline(tmp_path / kind, prediction_type=kind)
    scale = ("directions=[range,scale]", "baselines=none")
    assert validate(
        composed(*scale, f"pretrain_load.source={tmp_path}/epsilon", monkeypatch=monkeypatch), tmp_path, monkeypatch
    )
    with pytest.raises(SystemExit, match="directions: scale: the base predicts 'v_prediction', and only"):
        validate(
            composed(*scale, f"pretrain_load.source={tmp_path}/v_prediction", monkeypatch=monkeypatch), tmp_path,
            monkeypatch,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "spacing", "refused"),
    [("local", "trailing", True), ("train", "trailing", True), ("local", "uniform", False)],
)
def test_validate_refuses_a_sampler_that_the_model_cannot_have(
    source: str, spacing: str, refused: bool, digits: torch.Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Zero terminal SNR with ε-prediction: it came out after hours of training, or as black images."""
    schedule = {"rescale_betas_zero_snr": True, "clip_sample": False}
    params = composed(f"sampler.spacing={spacing}", monkeypatch=monkeypatch)
    if source == "train":
        training = asdict(training_params(consistency=0.0, projection="none"))
        train = {"architecture": ARCHITECTURE, "noise_schedule": schedule, "training": training}
        params["pretrain_load"] = {"source": "train", "revision": None, "train": train}
    else:
        params["pretrain_load"]["source"] = str(write_pipeline(tmp_path / "model", **schedule))
    params["inputs"] = inputs(params)
    if not refused:
        assert validate(params, tmp_path, monkeypatch)
        return
    message = "params: sampler dpm_solver with trailing spacing starts at t = 999"
    with pytest.raises(SystemExit, match=message):
        validate(params, tmp_path, monkeypatch)
    if source == "local":  # a model on the hub is first seen when it has been fetched
        save_part(tmp_path / "images", "train", Images(digits, torch.zeros(len(digits), dtype=torch.int64)))
        with pytest.raises(SystemExit, match=message):
            stage("pretrain_load", "--data", tmp_path / "images", "--out", tmp_path / "out", monkeypatch=monkeypatch)


@pytest.mark.parametrize(("images", "warned"), [(240, True), (300, False)])
def test_validate_warns_of_images_too_few_for_an_interval_and_goes_on(
    images: int, warned: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "extractor").mkdir()
    config = {"_class_name": "SmallClassifier", "channels": 1, "width": 64, "classes": 10}
    (tmp_path / "extractor" / "config.json").write_text(json.dumps(config))
    overrides = (f"sample.images={images}", "evaluate.blocks=6", f"reference.extractor={tmp_path}/extractor")
    assert validate(composed(*overrides, monkeypatch=monkeypatch), tmp_path, monkeypatch)
    said = capsys.readouterr().err
    assert ("warning: Fréchet distances get no corrected value" in said) == warned
    assert ("240 images are fewer than 4 for each of 64 features; set sample.images to 300" in said) == warned


@pytest.mark.parametrize(
    ("change", "now"),
    [
        ({"N": 8}, "N = 8, baselines = []"),
        ({"baselines": ["full_range"]}, "N = 4, baselines = ['full_range']"),
        ({"dag": dag(2, [])}, "N = 4, baselines = []"),
        ({"dag": dag(4, ["min_snr"])}, "N = 4, baselines = []"),
        ({"dag": None}, "N = 4, baselines = []"),
    ],
)
def test_validate_refuses_a_dag_of_other_params_in_one_line(
    change: dict[str, Any], now: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stopped:
        validate(composed("N=4", monkeypatch=monkeypatch) | change, tmp_path, monkeypatch)
    assert stopped.value.code == (
        f"error: params: dag is not that of {now}, random_draws = 1, directions = ['range', 'self']; it is derived: set"
        " these with `dvc exp run -S N=… -S baselines=…`, which composes params.yaml anew"
    )
    assert not (tmp_path / "checked").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "none"}, "merge_search.method = 'none': must be one of auto, grid, coordinate, "),
        ({"method": "grid"}, "merge_search.budget = 30000: the grid over 4 weights has 257 points of 1500 images each"),
        ({"fixed": [None, 0.0]}, "merge_search.fixed = [None, 0.0]: needs N = 4 entries"),
        ({"budget": 1}, "merge_search.budget = 1: must be at least 2 × images = 3000"),
        ({"per_block": True}, "merge_search.method = 'auto': too many points for the weights of every block"),
        ({"towards_shared": -1.0}, "merge_search.towards_shared = -1.0: must be a finite number, not negative"),
        (
            {"extractors": ["zoo/judges/digits/final/code"]},
            "merge_search.extractors: 'zoo/judges/digits/final/code' is",
        ),
        ({"prompts": ["classes"]}, "merge_search.prompts = ['classes']: only images of a text-to-image pipeline"),
    ],
)
def test_validate_refuses_a_search_that_cannot_be_made(
    change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params = composed("N=4", monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=re.escape(f"error: params: {message}")):
        validate(params | {"merge_search": params["merge_search"] | change}, tmp_path, monkeypatch)
    assert not (tmp_path / "checked").exists()


def test_validate_refuses_baselines_of_infinite_weights_on_the_base_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = write_pipeline(tmp_path / "base", rescale_betas_zero_snr=True)
    for baselines, refused in (("core", False), ("all", True)):
        params = composed(f"baselines={baselines}", f"pretrain_load.source={base}", monkeypatch=monkeypatch)
        if refused:
            with pytest.raises(SystemExit, match=r"baseline \w+: its weight on the noise loss is infinite at t = 999"):
                validate(params, tmp_path, monkeypatch)
        else:
            assert validate(params, tmp_path, monkeypatch)
            (tmp_path / "checked").unlink()
    assert not (tmp_path / "checked").exists()


def test_validate_counts_the_weights_of_a_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    params = composed("merge.method=per_block", "+merge.blocks.mid_block=[0,1]", monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=r"merge\.blocks\.mid_block = \[0, 1\]: must be N = 4 numbers"):
        validate(params, tmp_path, monkeypatch)


def test_validate_knows_the_dag_but_no_longer_the_ranges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"params: ranges = '…': unknown key; valid keys are .*baselines.*, dag, inputs$"
    ):
        validate(composed(monkeypatch=monkeypatch) | {"ranges": [1, 2, 3, 4]}, tmp_path, monkeypatch)


def test_the_error_about_a_missing_key_points_to_a_file_that_exists() -> None:
    with pytest.raises(InputError) as error:
        section({"example": {}}, "example", Example)
    assert (REPOSITORY / str(error.value).split("; ")[1].split()[0]).is_file()
