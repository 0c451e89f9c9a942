"""Several directions in one search: a step along each, how the experts share theirs out, and what is refused."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, edit_config, stage
from dag_runs import link_judges
from searching import STEPS, Counted, quadratic, search_params
from toy_run import TOY

from deme_core.dag import FURTHER, check_directions, dag, is_baseline
from deme_core.errors import InputError
from deme_core.merging.task_vectors import vector_files
from deme_core.params import read, section
from deme_core.preflight.validation import check_params
from deme_core.report.tables import training_steps
from deme_core.report.text import model_name
from deme_core.search.check import check_search
from deme_core.search.kinds import searched
from deme_core.search.result import SearchResult
from deme_core.search.search import search
from deme_core.search.settings import SearchParams
from deme_core.search.spaces import Split, Steps
from deme_core.search.task import SearchTask
from deme_core.search.trials import TrialLog
from deme_core.seeds import SeedBlock

TWO, SIZES = ["scale", "away"], [3, 1]
WHOLE = {"budget": 400, "images": 10, "away": (0.5, 1.5), "finalists": 3}  # 40 trials


def found(
    folder: Path, score: Any, kinds: Sequence[str] = TWO, sizes: Sequence[int] = SIZES, **changes: Any
) -> tuple[SearchResult, Counted]:
    """As the stage asks for it."""
    counted = Counted(score)
    params, space = searched(kinds, search_params(**WHOLE | changes), sizes)
    log = TrialLog(folder / "trials.csv", sum(sizes))
    return search(counted, counted, sum(sizes), params, log, STEPS, space=space), counted  # type: ignore[arg-type]


# What moves


def test_a_step_is_shared_out_over_the_vectors_of_its_direction() -> None:
    params = search_params(bounds=(-0.25, 1.0), scales=(-2.0, 5.0), away=(0.5, 1.5))
    space = Steps.of(["scale", "away", "early", "epsilon"], [2, 3, 1, 1], params)
    assert space.full((1.0, -0.75, -0.5, 0.02)) == (0.5, 0.5, -0.25, -0.25, -0.25, -0.5, 0.02)
    assert space.bounds == ((-0.5, 2.0), (-1.5, 0.0), (-1.0, 0.0), (-0.05, 0.05))  # the experts' within 2 × bounds
    assert [space.full(w) for w in space.anchors] == [
        (0,) * 7,
        (0.5, 0.5, 0, 0, 0, 0, 0),
        (0, 0, *(-1 / 3,) * 3, 0, 0),
        (0, 0, 0, 0, 0, -0.1, 0),
        (0, 0, 0, 0, 0, 0, 0.01),
    ]
    assert Steps.of(TWO, [2, 1], search_params(scales=(), away=())).bounds == ((0.0, 1.0), (-1.0, 0.0))


def test_an_experts_fixed_weight_stays_and_the_further_steps_are_free() -> None:
    space = Steps.of(TWO, SIZES, search_params(fixed=(None, 0.75, None), away=(0.5,)))
    assert space.full((0.9, -0.5)) == pytest.approx((0.3, 0.75, 0.3, -0.5))
    split = space.split(space.full((0.9, -0.5)))
    moved = split.full((0.1,))
    assert (moved[1], moved[3]) == (0.75, -0.5)
    assert moved[0] + moved[2] == pytest.approx(0.6)
    assert moved[0] != moved[2]


def test_a_split_keeps_the_sum_and_the_bounds_and_reaches_every_even_distance() -> None:
    center, rng = (0.2, 0.2, 0.2, 0.2, -0.75), np.random.default_rng(0)
    split = Split(center, (0, 1, 2, 3), (-0.75, 1.5))
    assert split.full((0.0,) * 3) == center
    for numbers in rng.uniform(-1.125, 1.125, (200, 3)):
        inside = split.inside(numbers.tolist())
        moved = np.array(split.full(inside))
        assert moved[4] == -0.75
        assert moved[:4].sum() == pytest.approx(0.8)
        assert moved[:4].min() >= -0.75
        assert moved[:4].max() <= 1.5
        assert np.linalg.norm(moved - center) == pytest.approx(np.linalg.norm(inside))  # one distance all around
        assert split.inside(inside) == pytest.approx(inside)
        factor = np.array(inside) / numbers
        assert factor == pytest.approx(factor[0])
        assert factor[0] <= 1


def test_experts_at_the_end_of_their_bounds_have_no_split() -> None:
    split = Split((-0.75, -0.75, 0.0), (0, 1), (-0.75, 1.5))
    assert split.full(split.inside((0.5,))) == split.center


# The search


def test_the_steps_are_found_first_and_the_even_split_stays_where_it_is_best(tmp_path: Path) -> None:
    result, score = found(tmp_path, quadratic((0.2, 0.2, 0.2, -0.7)))
    assert result.method == "joint"
    assert result.weights == pytest.approx([0.2, 0.2, 0.2, -0.7], abs=0.04)
    assert result.search_change == pytest.approx(result.confirm_change, abs=0.05)
    first = [w for w, *_ in score.of(SeedBlock.SEARCH)]
    assert first[:3] == [(0,) * 4, (*(1 / 3,) * 3, 0), (0, 0, 0, -1)]
    even = [len({*w[:3]}) == 1 for w in first]
    assert even == sorted(even, reverse=True)  # all steps before any split
    assert all(-1.5 <= w[3] <= 0 and min(w[:3]) >= -0.5 and max(w[:3]) <= 1.5 for w in first)


def test_every_anchor_is_confirmed_and_can_win(tmp_path: Path) -> None:
    anchors = [(0.0,) * 4, (*(1 / 3,) * 3, 0.0), (0.0, 0.0, 0.0, -1.0)]
    for best in anchors:
        score = lambda w, block, *_, best=best: 0.5 if tuple(w) == best and block is SeedBlock.CONFIRM else 1.0  # noqa: E731
        result, counted = found(tmp_path / str(best), score)
        assert set(anchors) <= {w for w, *_ in counted.of(SeedBlock.CONFIRM)}
        assert tuple(result.best) == best
        assert result.search_change == 0


def test_a_split_is_taken_only_where_it_beats_the_even_one_beyond_the_noise(tmp_path: Path) -> None:
    optimum = (0.5, 0.1, 0.0, -0.7)  # the even split of its sum: 0.2 each
    for noise, uneven in ((0.0, True), (0.1, True), (4.0, False)):

        def score(w: Sequence[float], block: SeedBlock, first: int, images: int, noise: float = noise) -> float:
            value = quadratic(optimum)(w, block, first, images)
            luck = noise * float(np.ptp(w[:3])) * (-1) ** (first // 20)  # of uneven weights alone
            return value * float(np.exp(luck if block is SeedBlock.CONFIRM else 0))

        result, counted = found(tmp_path / str(noise), score, final_images=80, final_blocks=4)
        confirmed = {w for w, *_ in counted.of(SeedBlock.CONFIRM)}
        assert len(confirmed) == 5  # 0, both anchors, steps, split: as many as another search's
        assert any(np.ptp(w[:3]) > 0.2 for w in confirmed)
        assert (np.ptp(result.weights[:3]) > 0.2) == uneven, noise
        assert sum(result.weights[:3]) == pytest.approx(0.6, abs=0.1)
        assert result.weights[3] == pytest.approx(-0.7, abs=0.1)


def test_a_budget_without_room_for_a_split_is_spent_on_the_steps(tmp_path: Path) -> None:
    result, counted = found(tmp_path, quadratic((0.5, 0.1, 0.0, -0.7)), budget=130)  # 7 trials a plane, 7 a split
    assert all(len({*w[:3]}) == 1 for w, *_ in counted.calls)
    assert result.weights == pytest.approx([0.2, 0.2, 0.2, -0.7], abs=0.05)
    assert result.trials <= 13


@pytest.mark.parametrize("budget", [70, 140, 200, 400])
def test_it_has_the_images_of_demes_search(tmp_path: Path, budget: int) -> None:
    result, counted = found(tmp_path, quadratic((0.3, 0.1, 0.2, -0.7)), budget=budget)
    assert sum(images for *_, images in counted.of(SeedBlock.SEARCH)) <= budget
    assert {call[2:] for call in counted.of(SeedBlock.SEARCH)} == {(0, 10)}
    assert len({w for w, *_ in counted.of(SeedBlock.CONFIRM)}) <= 2 + search_params(**WHOLE).finalists
    assert result.images_sampled == sum(images for *_, images in counted.calls)


def test_far_along_a_step_a_distance_grows_faster_than_a_quadratic_and_the_lowest_point_is_found(
    tmp_path: Path,
) -> None:
    score = lambda w, *_: 0.2 * float(np.exp(0.2 * (sum(w[:3]) - 0.5) ** 2 + (w[3] + 0.75) ** 2))  # noqa: E731
    result, _ = found(tmp_path, score, away=(0.5, 2.5), scales=(-0.75, 4.0), budget=150)
    assert (sum(result.weights[:3]), result.weights[3]) == pytest.approx((0.5, -0.75), abs=0.2)
    assert result.confirm_score < 1.01 * 0.2
    plain, _ = found(tmp_path / "kid", score, away=(0.5, 2.5), scales=(-0.75, 4.0), budget=150, objective="kid")
    assert plain.confirm_score > result.confirm_score  # a difference is fitted as it is


# Where it is asked for


def test_it_is_one_more_model_that_waits_for_every_vector_and_every_gate() -> None:
    asked = ("range", "joint", "scale", "self")
    section, without = dag(2, [], directions=asked), dag(2, [], directions=("range", "self", "scale"))
    assert section["searches"] == without["searches"] | {
        "joint": {
            "kind": "scale away epsilon",
            "vectors": "models/n2/vectors models/own models/scale",
            "read": ["models/n2/vectors", "models/own", "models/scale", "models/n2/vectors"],
            "after": ["models/n2/experts.passed", "models/own.passed"],
        }
    }
    assert section["models"].keys() - without["models"].keys() == {"joint"}
    assert not is_baseline("joint")
    assert training_steps("joint", 4, 800, 1) == "4 × 800 + 800"
    assert training_steps("joint", 4, 800, 2) == "4 × 800 + 2 × 800"
    assert training_steps("joint", 4, 800, 0) == "4 × 800"
    assert len({*map(model_name, section["models"])}) == len(section["models"])


def test_dvc_looks_at_every_path_that_a_search_may_read() -> None:
    import yaml

    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    whole = dag(2, [], directions=("range", *FURTHER, "joint"))["searches"]["joint"]
    assert len({*whole["read"]}) == len(whole["read"])
    for name, keys in (("merge_search_baseline", ("read", "after")), ("merge_searched", ("read",))):
        deps = stages[name]["do"]["deps"]
        for key in keys:
            assert {f"${{item.{key}[{i}]}}" for i in range(len(whole[key]))} == {d for d in deps if f".{key}[" in d}


def test_one_direction_alone_is_no_joint_search() -> None:
    message = "params: directions = ['range', 'joint']: joint searches several at once, and there is only range; add"
    with pytest.raises(InputError, match=f"^{re.escape(message)} self, early, scale, or take joint out$"):
        check_directions(["range", "joint"])
    with pytest.raises(InputError, match="and range among them"):
        check_directions(["self", "joint"])


def test_a_budget_that_fixes_no_quadratic_is_refused_before_time_is_spent() -> None:
    params = search_params(budget=110, method="coordinate")
    check_search(4, params, ["scale away"])
    message = (
        "params: merge_search.budget = 110: the quadratic of 3 steps at once needs 12 trials of 10 images; set"
        " merge_search.budget=120 or more, or take joint out of `directions`"
    )
    with pytest.raises(InputError) as refused:
        check_search(4, params, ["scale away early"])
    assert str(refused.value) == message
    assert len(message.splitlines()) == 1


def test_projections_that_stay_in_the_experts_are_refused_beside_vectors_that_lack_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    params = read(REPOSITORY / "params.yaml")
    params["finetune_range"]["projection"] = "released"
    for directions in (["range", "scale"], ["range", "self", "joint"], ["range", "scale", "joint"]):
        params["directions"] = directions
        shape = params["N"], params["baselines"], {}, params["random_draws"], directions, params["analyses"]
        params["dag"] = dag(*shape)
        if "joint" in directions and "scale" in directions:
            with pytest.raises(InputError, match=r"directions = .*: joint merges .*that scale lacks; take projection"):
                check_params(params)
        else:
            check_params(params)


def test_the_stages_search_and_merge_over_two_folders(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From θ and the experts' vectors to a merged pipeline, with the vector that scales ε beside them."""
    params = read(REPOSITORY / "params.yaml")
    for key, value in TOY.items():
        params[key] = params[key] | value if isinstance(value, dict) else value
    params["reference"]["extractor"] = str(extractor_dir)
    params["merge_search"] |= {"budget": 200, "images": 20, "finalists": 2, "final_images": 40}
    link_judges(empty_folder)
    params["inputs"] |= {"extractor": str(extractor_dir)}
    Path("params.yaml").write_text(json.dumps(params))
    run = lambda name, *arguments: stage(name, *arguments, monkeypatch=monkeypatch)  # noqa: E731
    run("data", "--out", "data/images")
    run("reference", "--data", "data/images", "--out", "data/reference")
    run("encode", "--data", "data/images", "--pretrained", pipeline, "--out", "data/examples")
    run("direction", "--name", "scale", "--pretrained", pipeline, "--out", "models/scale")
    folders = ["--pretrained", pipeline, "--vectors", vectors[0].parent, "models/scale"]
    read_too = ["--reference", "data/reference", "--data", "data/images", "--prompts", "data/prompts"]
    run(
        "merge_search", *folders, *read_too, "--kind", "scale", "epsilon", "--examples", "data/examples", "--out", "out"
    )
    result = SearchResult.read(Path("out/result.json"))
    assert (result.method, len(result.weights), len(result.best)) == ("joint", 3, 3)
    assert result.trials <= 10
    run("merge", *folders, "--search", "out/result.json", "--out", "merged")
    recipe = json.loads(Path("merged/merge.json").read_text())
    assert recipe["weights"] == result.weights
    assert len(recipe["vectors_sha256"]) == 3
    assert vector_files(Path("models/scale/1.safetensors")) == vector_files(Path("models/scale"))
    asked = section(params, "merge_search", SearchParams)
    files = vectors, Path("data/reference/train.safetensors"), Path("data/examples")
    tasks = []
    for dtype in (None, "float16"):  # a trial is rounded as the merge that is written
        tasks.append(SearchTask.of(params | {"merge": params["merge"] | {"dtype": dtype}}, asked, pipeline, *files))
        assert {*tasks[-1].loss.model.dtypes.values()} == {torch.float16 if dtype else torch.float32}
    other = Path(shutil.copytree(pipeline, "other"))
    edit_config(other / "unet", flip_sin_to_cos=False)  # the same weights
    tasks.append(SearchTask.of(params, asked, other, *files))
    assert len({json.dumps(task.identity, sort_keys=True) for task in tasks}) == 3
