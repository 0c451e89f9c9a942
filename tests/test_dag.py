"""What dvc.yaml makes stages of: the derived section `dag`, and its refusal where it belongs to other params."""

import re
from typing import Any

import pytest

from deme_core.dag import BASELINES, DEME, DIRECTIONS, OWN, check_dag, dag, is_baseline
from deme_core.errors import InputError
from deme_core.inputs import UNCHANGING
from deme_core.search.kinds import KINDS


def passed(N: int) -> str:
    """The gate's mark, which a search of experts waits for."""
    return f"models/n{N}/experts.passed"


def row(kind: str, vectors: str, after: str) -> dict[str, Any]:
    """A search over the vectors of one folder."""
    return {"kind": kind, "vectors": vectors, "read": [vectors] * 4, "after": [after] * 2}


DAG = dag(3, ["full_range", "soup_greedy", "loss_equivalent"])


def test_without_baselines_there_are_the_ranges_and_the_models_of_deme() -> None:
    assert dag(2, []) == {
        "ranges": [1, 2],
        "models": {
            "pretrained": "pretrained", "ensemble": "n2/ensemble", "merged_uniform": "n2/merged_uniform",
            "merged": "n2/merged", "random1": "n2/random1", "matched": "matched",
        },
        "sampled": {
            "pretrained": "pretrained", "ensemble": "n2/ensemble", "merged_uniform": "n2/merged_uniform",
            "merged": "n2/merged", "random1": "n2/random1",
        },
        "random": {"random1": 1},
        "untrained": [],
        "own": [],
        "own_gate": "reports/experts.csv",
        "away": "pretrained",
        "full_range": "data/examples",
        "finetunes": {},
        "searches": {"random1": row("deme", "models/n2/random/1", passed(2))},
        "prompted": {},
        "prompt_reports": {},
        "prompt_page": UNCHANGING,
        "analyses": {},
    }  # fmt: skip


def test_every_model_meets_every_prompt_set() -> None:
    references = {"coco": "real/coco.safetensors", "parti": None}
    section = dag(2, ["full_range"], references)
    assert list(section["prompted"])[:2] == ["pretrained+coco", "ensemble+coco"]
    assert section["prompted"]["full_range+scale+parti"] == {
        "model": "full_range+scale", "path": "n2/full_range+scale", "set": "parti", "reference": UNCHANGING,
    }  # fmt: skip
    assert section["prompted"]["merged+coco"]["reference"] == "real/coco.safetensors"
    assert len(section["prompted"]) == 2 * len(section["sampled"])
    assert section["prompt_reports"] == {"table2": "reports/prompts"} and section["prompt_page"] == "reports/prompts"
    check_dag(section, 2, ["full_range"], references)
    with pytest.raises(InputError, match="params: dag is not that of"):
        check_dag(section, 2, ["full_range"], references | {"coco": "real/other.safetensors"})


def test_the_dag_of_three_baselines_by_hand() -> None:
    assert DAG["ranges"] == [1, 2, 3]
    assert DAG["finetunes"] == {
        "full_range": {"after": "data/examples"},
        "loss_equivalent": {"after": "search/n3/merged_nonnegative"},  # no loss is negative: w >= 0
    }
    assert DAG["searches"] == {
        "merged_nonnegative": row("nonnegative", "models/n3/vectors", passed(3)),
        "full_range+scale": row("scale", "models/n3/baselines/full_range", passed(3)),
        "loss_equivalent+scale": row("scale", "models/n3/baselines/loss_equivalent", passed(3)),
        "soup_greedy": row("greedy", "models/n3/vectors", passed(3)),  # of the experts: nothing is trained
        "random1": row("deme", "models/n3/random/1", passed(3)),  # the null
    }
    merges = [*DEME, "merged_nonnegative"]
    baselines = ["full_range", "loss_equivalent", "full_range+scale", "loss_equivalent+scale", "soup_greedy"]
    sampled = {"pretrained": "pretrained"} | {m: f"n3/{m}" for m in [*merges, *baselines, "random1"]}
    assert (DAG["sampled"], DAG["models"]) == (sampled, sampled | {"matched": "matched"})
    assert list(DAG["models"]) == ["pretrained", *merges, *baselines, "random1", "matched"]  # the order of every table
    assert DAG["full_range"] == "models/n3/baselines/full_range"


def test_every_draw_of_the_null_has_vectors_a_search_and_a_row() -> None:
    section = dag(4, [], draws=3)
    assert section["random"] == {"random1": 1, "random2": 2, "random3": 3}
    assert section["searches"] == {f"random{k}": row("deme", f"models/n4/random/{k}", passed(4)) for k in (1, 2, 3)}
    assert section["random"].keys() <= section["models"].keys()
    assert [m for m in dag(4, BASELINES, draws=2)["models"] if not is_baseline(m)] == [
        *OWN,
        "random1",
        "random2",
        "matched",
    ]
    with pytest.raises(InputError, match="random_draws = 2"):
        check_dag(section, 4, (), draws=2)


def test_every_baseline_is_measured_as_trained_and_with_its_scale_searched() -> None:
    section = dag(4, BASELINES)
    trained = set(BASELINES) - {"soup_greedy"}
    assert set(section["finetunes"]) == trained
    assert set(section["searches"]) == {f"{r}+scale" for r in trained} | {
        "soup_greedy",
        "merged_nonnegative",
        "random1",
    }
    assert set(section["models"]) == {
        *OWN,
        *BASELINES,
        *(f"{baseline}+scale" for baseline in trained),
        "random1",
        "matched",
    }
    assert len(set(section["models"].values())) == len(section["models"])


@pytest.mark.parametrize("baseline", BASELINES)
def test_demes_nonnegative_search_comes_with_the_loss_equivalent_alone(baseline: str) -> None:
    section, comes = dag(4, [baseline]), baseline == "loss_equivalent"
    assert ("merged_nonnegative" in section["models"]) == ("merged_nonnegative" in section["searches"]) == comes
    assert "merged_nonnegative" not in section["finetunes"]


def test_every_kind_of_search_is_one_that_the_stage_knows() -> None:
    section = dag(4, BASELINES, directions=DIRECTIONS)
    assert {word for made in section["searches"].values() for word in made["kind"].split()} == set(KINDS)


def test_the_paths_of_two_N_never_meet() -> None:
    """Outputs of an earlier N stay on disk; only the pretrained model and its matched images are the same for both."""
    two, four = (set(dag(N, BASELINES)["models"].values()) for N in (2, 4))
    assert two & four == {"pretrained", "matched"}


def test_own_samples_give_two_more_models_one_of_a_search_and_one_of_none() -> None:
    without, section = dag(2, ["full_range"]), dag(2, ["full_range"], directions=("self", "range"))
    assert section["own"] == ["pretrained"]
    assert section["searches"]["neon"] == row("away", "models/own", "models/own.passed")
    assert section["models"].keys() - without["models"].keys() == {"neon", "away"}
    assert "away" not in section["searches"]
    assert section["models"]["away"] == section["sampled"]["away"] == section["away"] == "away"
    assert without["away"] == "pretrained"
    assert not is_baseline("neon")
    assert not is_baseline("away")
    check_dag(section, 2, ["full_range"], directions=("self", "range"))
    with pytest.raises(InputError, match=r"directions = \['range'\]; it is derived"):
        check_dag(section, 2, ["full_range"])


def test_a_direction_without_a_training_gives_one_more_model_whose_search_waits_for_its_vectors() -> None:
    section = dag(2, [], directions=("range", "scale", "early"))
    assert (section["untrained"], section["own"]) == (["early", "scale"], [])
    assert section["searches"] == dag(2, [])["searches"] | {
        "early": row("early", "models/early", "models/early"),
        "scaled": row("epsilon", "models/scale", "models/scale"),
    }
    assert list(section["models"])[-3:] == ["early", "scaled", "matched"]
    assert not is_baseline("early")
    assert not is_baseline("scaled")


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (["range", "late"], "params: directions: 'late' is unknown; known are range, self, early, scale"),
        (["self"], "params: directions = ['self']: each stands once, and range among them"),
        (["range", "range"], "params: directions = ['range', 'range']: each stands once"),
    ],
)
def test_directions_that_are_none_are_refused(directions: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        dag(4, [], directions=directions)


@pytest.mark.parametrize("baselines", [["full_rnage"], ["full_range", "merged"], ["full_range+scale"]])
def test_an_unknown_baseline_is_refused_with_those_that_are_known(baselines: list[str]) -> None:
    known = "full_range, snr_plus_one, truncated_snr, min_snr, soup_full_range, soup_greedy, loss_equivalent"
    with pytest.raises(
        InputError, match=re.escape(f"params: baselines: {baselines[-1]!r} is unknown; known are {known}")
    ):
        dag(4, baselines)


def test_a_baseline_that_stands_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"params: baselines = \['min_snr', 'min_snr'\]: each stands once"):
        dag(4, ["min_snr", "min_snr"])


def test_the_dag_of_the_params_passes() -> None:
    check_dag(dag(4, ["full_range"]), 4, ("full_range",))


@pytest.mark.parametrize(
    "section",
    [
        None,
        {},
        dag(2, ["full_range"]),
        dag(4, []),
        dag(4, ["min_snr"]),
        dag(4, ["full_range"]) | {"ranges": [1, 2, 3]},
        dag(4, ["full_range"]) | {"more": 1},
        dag(4, ["full_range"], {"coco": None}),
    ],
)
def test_a_dag_of_other_params_is_refused_with_the_way_to_compose_it(section: object) -> None:
    message = (
        "params: dag is not that of N = 4, baselines = ['full_range'], random_draws = 1, directions = ['range']; it is"
        " derived: set these with `dvc exp run -S N=… -S baselines=…`, which composes params.yaml anew"
    )
    with pytest.raises(InputError) as refusal:
        check_dag(section, 4, ("full_range",))
    assert str(refusal.value) == message


def test_an_unknown_baseline_is_named_before_the_dag_is_compared() -> None:
    with pytest.raises(InputError, match="'full_rnage' is unknown"):
        check_dag({}, 4, ("full_rnage",))


def test_figures_that_belong_to_other_params_are_refused() -> None:
    section = dag(2, [], analyses=["gradients"])
    check_dag(section, 2, (), analyses=["gradients"])
    with pytest.raises(
        InputError, match=r"^params: dag\.analyses is not that of analyses = \['vectors'\]; it is deriv"
    ):
        check_dag(section, 2, (), analyses=["vectors"])
    with pytest.raises(InputError, match=r"^params: dag\.analyses is not that of analyses = all; it is derived"):
        check_dag(section, 2, (), analyses="all")
