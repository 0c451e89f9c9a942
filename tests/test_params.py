"""Params: every key is checked and named; params.yaml is what Hydra composes from conf/."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from composing import Example, Inner, composed, validate
from conftest import REPOSITORY
from dag_runs import ASKED
from hydra.errors import MissingConfigException

from deme_core.dag import BASELINES, dag
from deme_core.errors import InputError
from deme_core.params import read, section

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


def test_params_yaml_is_what_conf_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    committed = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert read(REPOSITORY / "params.yaml") == composed(monkeypatch=monkeypatch)
    assert committed["dag"] == dag(
        committed["N"], committed["baselines"], directions=committed["directions"], analyses=committed["analyses"]
    )


@pytest.mark.parametrize("N", [1, 2, 8])
def test_the_dag_follows_N(N: int, monkeypatch: pytest.MonkeyPatch) -> None:
    section = composed(f"N={N}", "analyses=all", monkeypatch=monkeypatch)["dag"]
    assert section == dag(N, [], directions=ASKED, analyses="all")
    assert section["ranges"] == list(range(1, N + 1))


@pytest.mark.parametrize(
    ("group", "expected"), [("none", []), ("core", ["full_range", "soup_full_range"]), ("all", list(BASELINES))]
)
def test_the_dag_follows_the_group_of_baselines(
    group: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = composed("N=2", f"baselines={group}", monkeypatch=monkeypatch)
    assert params["baselines"] == expected
    assert params["dag"] == dag(2, expected, directions=ASKED, analyses=params["analyses"])
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
        ("experiment=digit", "experiment = digit: no file of conf/experiment, did you mean digits?; name one of"),
        ("experiment=null", "params: experiment = null: no file of conf/experiment; name one of cifar10, digits,"),
        ("baselines=foo", "params: baselines = foo: no file of conf/baselines; name one of all, core, full_range,"),
        ("baselines=[soup_greedy]", "or write conf/baselines/mine.yaml and name mine"),
        ("N=[1", "no viable alternative at input '[1'"),
        ("N=x", "params: N = 'x': must be of type int"),
        ("N=2.5", "params: N = 2.5: must be of type int"),
        ("random_draws=null", "params: random_draws = None: must be of type int"),
        ("directions=null", "params: directions = None: must be a list of names"),
        ("directions=range", "params: directions = 'range': must be a list of names"),
        ("directions=[[a]]", "params: directions = [['a']]: must be a list of names"),
        ("analyses=3", "params: analyses = 3: must be a list of names"),
        ("prompts=3", "params: prompts = 3: must be a section with keys"),
        ("+prompts.a=3", "params: prompts.a = 3: must be a section with keys"),
        ("data=foo", "params: data = 'foo': must be a section with keys"),
        ("dag=1", "params: dag = 1: is derived from the other params"),
        ("inputs=1", "params: inputs = 1: is derived from the other params"),
        ("merge_search=null", "params: merge_search = None: must be a section with keys"),
        ("directions=[range,foo]", "params: directions: 'foo' is unknown; known are range, self"),
        (
            "baselines=[]",
            "params: baselines = []: no file of conf/baselines; name one of all, core, full_range, none, paper",
        ),
        ("name=${nobody}", "params: Interpolation key 'nobody' not found"),
    ],
)
def test_an_override_that_is_refused_ends_in_one_line(
    override: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "conf")
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        __import__("compose").compose_params([override])
    assert "\n" not in str(refused.value)


def test_a_slip_in_a_preset_is_told_with_its_file_and_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "bad.yaml").write_text("defaults: [digits, _self_]\nN: [1\np: 0.3\n")
    monkeypatch.syspath_prepend(REPOSITORY / "conf")
    module = __import__("compose")
    monkeypatch.setattr(module, "CONF", tmp_path / "conf")
    monkeypatch.syspath_prepend(REPOSITORY / "hydra_plugins")
    with pytest.raises(InputError, match=r"params: no valid YAML: .*bad\.yaml.*, line 3") as refused:
        module.compose_params(["experiment=bad"])
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
        (["pretrain_load.source='~/base'"], "pretrain_load.source = '~/base': no such"),
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
    with pytest.raises(SystemExit) as stopped:
        validate(composed(*overrides, monkeypatch=monkeypatch), tmp_path, monkeypatch)
    assert f"error: params: {message.format(cwd=tmp_path)}" in str(stopped.value.code)
    assert "\n" not in str(stopped.value.code)
