"""The window of merge weights without its looks: images, predictions, merges that are kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import files_of, search_result, write_expert, write_experts, write_vectors
from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline
from exploring import asked, sampled, write_run
from searching import searched
from text_to_image import write_stable_diffusion

from deme_core.errors import InputError
from deme_core.explore.answers import opened
from deme_core.explore.directions import Directions
from deme_core.explore.experts import of_experts
from deme_core.explore.prediction import NoPrediction, Surrogate
from deme_core.explore.run import of_run
from deme_core.explore.searches import read_trials
from deme_core.explore.session import Session
from deme_core.hub_layouts import import_pipeline
from deme_core.merging.away import AwayParams
from deme_core.params import read
from deme_core.search.result import SearchResult
from deme_core.search.spaces import Steps
from deme_core.seeds import SeedBlock, image_generators


@pytest.fixture(scope="module")
def run_folder(pipeline: Path, vectors: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), pipeline, vectors)


@pytest.fixture
def session(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.chdir(run_folder)
    return Session(of_run(read()))


def test_every_direction_of_a_run_has_its_slider(session: Session) -> None:
    experts, own_samples = session.source.directions.each
    assert (experts.name, own_samples.name) == ("range", "self")
    assert experts.labels == ("1: t in [0, 500)", "2: t in [500, 1000)")
    assert experts.bounds == (-0.5, 1.5) and own_samples.bounds == (-1.0, 0.0)
    assert session.source.directions.uniform == [0.5, 0.5, 0.0]
    assert session.source.directions.weights([1, 2, -0.5]) == (1, 2, -0.5)


def test_the_step_of_the_length_that_is_set_has_its_button_within_the_sliders_reach(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_folder)
    params = read()
    for length in (0.75, 4.0):
        source = of_run(params | {"away": {"w": length}})
        found = opened(Session(source))
        button = next(button for button in found["buttons"] if button["label"] == "away")
        assert button["weights"] == [0.0, 0.0, -length]
        assert found["sliders"][-1]["low"] == min(-1.0, -length)
    shared = replace(source.directions.each[1], vectors=source.directions.each[1].vectors * 4)  # one for all four
    values = Directions((source.directions.each[0], shared)).along("self", -0.75)
    assert Directions((source.directions.each[0], shared)).weights(values) == (0, 0, *AwayParams(w=0.75).weights(4))
    assert "away" not in [button["label"] for button in opened(Session(replace(source, away=None)))["buttons"]]


def test_merges_are_looked_at_and_kept_in_the_dtype_of_the_runs_merges(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_folder)
    params = read()
    session = Session(of_run(params | {"merge": params["merge"] | {"dtype": "float16"}}))
    assert {*session.model.dtypes.values()} == {torch.float16}
    session.save([0.25, 0.5, 0.0], tmp_path / "kept")
    assert json.loads((tmp_path / "kept" / "merge.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("placement", ["none", "released"])
def test_zero_gives_the_bases_images_byte_for_byte(
    pipeline: Path, tmp_path: Path, placement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = write_experts(pipeline, tmp_path / "experts", placement)
    monkeypatch.chdir(write_run(tmp_path, pipeline, write_vectors(pipeline, experts, tmp_path / "vectors")))
    session = Session(of_run(read()))
    base, merged = session.images(asked(0.0, 0.0, 0.0))
    assert torch.equal(base, merged) and torch.equal(base, sampled(pipeline))
    again, moved = session.images(asked(1.0, 0.5, -0.5))
    assert torch.equal(again, base) and not torch.equal(moved, base)
    assert torch.equal(session.images(asked(0.0, 0.0, 0.0))[1], base)  # and once more after another merge


def test_searched_weights_give_the_images_of_the_merged_pipeline(session: Session, tmp_path: Path) -> None:
    found = session.searched()
    result = SearchResult.read(Path("search/n2/merged/result.json"))
    assert any(result.weights) and found["merged"] == [*result.weights, 0.0]
    assert found["neon"][:2] == [0.0, 0.0] and found["neon"][2] != 0
    session.save(found["merged"], tmp_path / "merged")
    whole = sampled(tmp_path / "merged", 0, 8)
    assert torch.equal(session.images(asked(*found["merged"]))[1], whole[:4])
    assert torch.equal(session.images(asked(*found["merged"], seed=3))[1], whole[3:7])


def test_a_saved_merge_is_one_for_stock_diffusers(session: Session, tmp_path: Path) -> None:
    weights = (0.7, -0.2, -0.4)
    session.save(weights, tmp_path / "merged")
    recipe = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert recipe["weights"] == list(weights) and recipe["search"] is None and "by hand" in recipe["note"]
    parts = DiffusionPipeline.from_pretrained(tmp_path / "merged").components
    scheduler = DDIMScheduler.from_config(parts["scheduler"].config, timestep_spacing="leading")
    stock = DDIMPipeline(parts["unet"].eval(), scheduler)
    stock.set_progress_bar_config(disable=True)
    noise = image_generators(SeedBlock.EVALUATION, range(4))
    theirs = stock(4, noise, num_inference_steps=4, output_type="pil").images
    ours = session.images(asked(*weights))[1]
    assert torch.equal(ours, torch.stack([torch.from_numpy(np.asarray(image).copy())[None] for image in theirs]))


def test_nothing_is_written_over(session: Session, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    for folder in (tmp_path / "there", tmp_path / "there" / "mine.txt"):
        with pytest.raises(InputError, match="holds something already; name a new folder"):
            session.save((0.5, 0.5, 0.0), folder)
    before = files_of(Path("models"))
    for folder in (Path("models/pretrained/merged"), Path("models"), Path()):
        with pytest.raises(InputError):
            session.save((0.5, 0.5, 0.0), folder)
    assert files_of(Path("models")) == before


def test_a_prediction_is_the_surrogates(session: Session) -> None:
    """The first round's change of its finalist is what the quadratic through all trials says of it."""
    result = SearchResult.read(Path("search/n2/merged/result.json"))
    zero = read_trials(Path("search/n2/merged"))[0.0, 0.0]
    found = session.predict([*result.weights, 0.0])
    assert found.search.model == "merged" and found.unit == "%"
    assert found.change.value == pytest.approx(100 * result.search_change / zero, rel=1e-9)
    assert found.change.low < found.change.value < found.change.high
    at_zero = session.predict([0.0, 0.0, 0.0]).change
    assert (at_zero.low, at_zero.value, at_zero.high) == (0, 0, 0)


def test_a_prediction_of_steps_is_that_of_the_joint_search(tmp_path: Path) -> None:
    """It fits logarithms."""

    def power(w: tuple[float, ...], *_: object) -> float:
        return 2.0 * float(np.exp((w[0] - 0.5) ** 2 + (w[1] + 0.7) ** 2 + 0.1 * w[0] * w[1] - 0.05 * w[0] ** 3))

    result, *_ = searched(tmp_path, power, 2, method="joint", budget=200, away=(0.5, 2.0))
    space = Steps((0.0, 0.0), ((0,), (1,)), (1, 1), ((-0.5, 1.5), (-2.0, 0.0)), [], (-0.5, 1.5))
    surrogate = Surrogate.of(read_trials(tmp_path), space, logarithm=True)
    assert any(result.weights) and surrogate.at(result.weights).value == pytest.approx(result.search_change, rel=1e-9)


def test_the_interval_of_a_prediction_holds_trials_that_the_fit_has_not_seen(rng: np.random.Generator) -> None:
    space = Steps((0.0, 0.0), ((0,), (1,)), (1, 1), ((-1, 1), (-1, 1)), [], (-1, 1))

    def trial(w: np.ndarray) -> float:
        return float(10 + w @ (1, -2) + w @ w + rng.normal(0, 0.3))

    held, trials = 0, 400
    for _ in range(trials):
        points = rng.uniform(-1, 1, (12, 2))
        surrogate = Surrogate.of(
            {(0.0, 0.0): 10.0} | {tuple(w.tolist()): trial(w) for w in points}, space, logarithm=False
        )
        new = rng.uniform(-1, 1, 2)
        found = surrogate.at(new.tolist())
        held += found.low <= trial(new) - 10 <= found.high
    assert 0.92 < held / trials < 0.98


def test_where_nothing_is_known_nothing_is_predicted(session: Session) -> None:
    with pytest.raises(NoPrediction, match="no search has moved range and self at once; the direction joint does"):
        session.predict([0.5, 0.5, -0.5])
    scores = {(0.0, 0.0): 1.0, (0.5, 0.0): 0.9, (0.0, 0.5): 0.8, (0.5, 0.5): 0.7}
    space = Steps((0.0, 0.0), ((0, 1),), (2,), ((-1, 1),), [], (-1, 1))
    with pytest.raises(NoPrediction, match=r"a quadratic in 1 weights needs 3 trials that vary them all, .* has 1"):
        Surrogate.of(scores, space, logarithm=False)
    line = {(w, w): 1 + w for w in (0.0, 0.1, 0.2, 0.3)}
    with pytest.raises(NoPrediction, match=r"moved fewer numbers .* one step a direction"):
        Surrogate.of(line, space, logarithm=False).at([0.1, 0.2])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": -1}, "seed"), ({"images": 0}, "images"), ({"images": 65}, "1 … 64"), ({"steps": 0}, "steps"),
        ({"steps": 2000}, "sampler.steps"), ({"prompt": "a seven"}, "takes no text"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(session: Session, changes: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        session.images(asked(0.5, 0.5, 0.0, **changes))


def test_weights_that_are_no_numbers_are_refused(session: Session) -> None:
    with pytest.raises(InputError, match="must be finite numbers"):
        asked(float("nan"), 0.0, 0.0)
    with pytest.raises(InputError, match="2 weights: the window has 3 sliders"):
        session.images(asked(0.5, 0.5))


def test_a_folder_without_a_run_is_told_what_to_do(run_folder: Path, empty_folder: Path) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: no such params file"):
        of_run(read())
    with pytest.raises(InputError, match="models/pretrained: no such directory; `dvc repro` makes it"):
        of_run(read(run_folder / "params.yaml"))


def test_a_search_of_other_task_vectors_is_refused(
    pipeline: Path, vectors: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path, pipeline, vectors))
    search_result([0.1, 0.2, 0.3]).write(Path("search/n2/merged/result.json"))
    with pytest.raises(InputError, match="weights of 3 task vectors, and there are 2; run `dvc repro` again"):
        Session(of_run(read()))


def test_experts_of_anyone(
    pipeline: Path, experts: list[Path], tmp_path: Path, run_merge: Callable[..., None], base_and_experts: list[object]
) -> None:
    (tmp_path / "vectors").mkdir()
    session = Session(of_experts(pipeline, experts, tmp_path / "vectors"))
    base, merged = session.images(asked(0.0, 0.0, steps=20))
    assert torch.equal(base, merged)
    with pytest.raises(NoPrediction, match="there is no search here"):
        session.predict([0.5, 0.5])
    session.save((0.3, 0.6), tmp_path / "merged")
    run_merge(*base_and_experts, "--recipe", tmp_path / "merged" / "merge.json", "--out", tmp_path / "again")
    ours, theirs = files_of(tmp_path / "merged" / "unet"), files_of(tmp_path / "again" / "unet")
    assert ours.keys() == theirs.keys()
    run_merge("--verify", tmp_path / "merged", *base_and_experts)
    with pytest.raises(InputError, match=r"no pipeline: it holds no model_index\.json"):
        of_experts(pipeline / "unet", experts, tmp_path / "vectors")


def test_a_prompt_is_drawn(tmp_path: Path) -> None:
    import_pipeline(write_stable_diffusion(tmp_path / "hub"), tmp_path / "base")
    expert = write_expert(tmp_path / "base", tmp_path / "expert", seed=1)
    (tmp_path / "vectors").mkdir()
    session = Session(of_experts(tmp_path / "base", [expert], tmp_path / "vectors"))
    one, two, zero = (
        session.images(asked(w, images=2, steps=2, prompt=text)) for text, w in [("one", 1), ("two", 1), ("one", 0)]
    )
    assert not torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1]) and torch.equal(one[0], zero[1])
    assert session.images(asked(1.0, images=2, steps=2))[0].shape == (2, 1, 16, 16)
