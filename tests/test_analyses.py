"""The figures of the paper: which a run makes, what each computes, and the stage that writes them."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from analysed import SMALL, analyse_params, finished_run
from conftest import REPOSITORY, N, files_of, search_result, stage, write_vectors
from PIL import Image

from deme_core.analyses import READS, analyses, figure_names
from deme_core.analysis import activations, before_after, cosines, vectors
from deme_core.analysis.figures import FIGURES, write_figure
from deme_core.analysis.names import vector_names
from deme_core.analysis.run_files import Run
from deme_core.analysis.settings import AnalyseParams
from deme_core.analysis.words import listed, number
from deme_core.checkpoints import denoiser_dir, load_denoiser, weights_file
from deme_core.data.archive import write_archive
from deme_core.data.examples import Pixels
from deme_core.data.some_examples import SomeExamples
from deme_core.errors import InputError
from deme_core.inputs import UNCHANGING
from deme_core.merging.random_vectors import write_random_vectors
from deme_core.metrics.feature_files import write_features
from deme_core.metrics.features import load_extractor
from deme_core.params import section
from deme_core.stage import RunParams
from deme_core.tensors import read_recipe, read_tensors, write_tensors
from deme_core.timesteps import TimestepRanges

# Which figures


def test_all_figures_and_none() -> None:
    assert figure_names("all") == tuple(READS) == tuple(FIGURES)
    assert figure_names(["vectors", "gradients"]) == ("vectors", "gradients")
    assert figure_names("cosines") == ("cosines",)
    assert analyses(4, [], ["range"]) == {}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["vector"], "params: analyses: 'vector' is unknown; known are gradients, "),
        ("everything", "params: analyses: 'everything' is unknown"),
        (["vectors", "vectors"], r"params: analyses = \['vectors', 'vectors'\]: each stands once"),
    ],
)
def test_names_that_make_no_sense_are_refused(names: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        figure_names(names)


def test_a_figure_waits_for_what_it_reads_alone() -> None:
    section = analyses(3, "all", ["range", "self"])
    assert {what: path for what, path in section["gradients"].items() if path != UNCHANGING} == {"models": "models/n3"}
    assert section["critical_point"]["search"] == "search/n3/merged"
    read = {what: path for what, path in section["vectors"].items() if path != UNCHANGING}
    assert read == {"models": "models/n3", "own": "models/own"}  # early and scale are not asked for
    assert {path for path in section["before_after"].values() if path != UNCHANGING} == {
        "samples/n3", "samples/pretrained", "features/n3", "features/pretrained.safetensors", "search/n3/merged",
    }  # fmt: skip
    assert len({tuple(reads) for reads in section.values()}) == 1  # what dvc.yaml asks of each


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 2}, "groups = 2: must be at least 3: intervals leave one out"),
        ({"draws": 0}, "draws = 0: must be at least 1"),
        ({"bins": 9}, "draws = 8: must be at least bins = 9"),
        ({"images": 3}, "images = 3: must be at least 4"),
        ({"grid": 4}, "grid = 4: must be at least 5 points a side"),
        ({"distance_images": 1}, "distance_images = 1: must be 0, or at least 2"),
        ({"plane": ["expert 1"]}, r"plane = \('expert 1',\): must be two names of task vectors"),
        ({"plane": ["expert 1", "expert 1"]}, "plane = .*: must be two names"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    assert section({"analyse": SMALL}, "analyse", AnalyseParams) == analyse_params()
    with pytest.raises(InputError, match=rf"analyse\.{message}"):
        section({"analyse": SMALL | change}, "analyse", AnalyseParams)


# A run


@pytest.fixture(scope="module")
def run(
    pipeline: Path, experts: list[Path], vectors: list[Path], digits: torch.Tensor, extractor_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:  # fmt: skip
    """A run of two experts, one finetune on own samples and one draw of the null, its images made up."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(pipeline, folder / "models/pretrained")
    shutil.copytree(vectors[0].parent, folder / f"models/n{N}/vectors")
    write_vectors(pipeline, experts[1:], folder / "models/own")
    write_random_vectors(vectors, folder / f"models/n{N}/random/1", seed=0, draw=1)
    shutil.copytree(pipeline, folder / f"models/n{N}/merged")
    extractor, merged = load_extractor(str(extractor_dir)), digits.clone()
    merged[5] = 255 - merged[5]
    merged[7, :, :4] = 255
    for name, pixels in (("pretrained", digits), (f"n{N}/merged", merged)):
        (folder / "samples" / name).mkdir(parents=True)
        write_archive(folder / "samples" / name, 0, pixels)
        write_features(folder / f"features/{name}.safetensors", extractor([pixels]), extractor)
    write_features(folder / "data/reference/train.safetensors", extractor([digits]), extractor)
    return finished_run(folder, digits, extractor_dir)


def test_every_vector_of_a_run_has_its_name(run: Run) -> None:
    assert list(run.vectors()) == ["expert 1", "expert 2", "own samples", "random1 1", "random1 2"]
    asked = {"N": N, "p": 0.1, "seed": 0, "boundaries": None, "baselines": ()}
    told = RunParams(name="run", directions=run.directions, random_draws=run.random_draws, **asked)
    assert vector_names(told, own_ranges=1) == list(run.vectors())  # before there is any of them
    with pytest.raises(InputError, match=r"analyse\.plane: no task vector is called 'expert 9'; there are expert 1, "):
        run.vector("expert 9")


def test_relative_norms_of_a_vector_made_by_hand(run: Run, tmp_path: Path) -> None:
    theta = read_tensors(weights_file(run.base))
    made = {key: (0.25 if "mid_block" in key else 0.5) * value for key, value in theta.items()}
    write_tensors(tmp_path / "tau.safetensors", made)
    table = pd.DataFrame(
        vectors.layers(weights_file(run.base), tmp_path / "tau.safetensors"),
        columns=["block", "layer", "kind", "weights", "norm", "relative"],
    )
    known = table.dropna()
    np.testing.assert_allclose(known["relative"], np.where(known["block"] == "mid_block", 0.25, 0.5))
    assert table["weights"].sum() == sum(value.numel() for value in theta.values())
    assert (table["norm"] ** 2).sum() == pytest.approx(sum(float(v.double().square().sum()) for v in made.values()))
    by_block = vectors.total(table, ["block"])
    assert by_block["mid_block"] == pytest.approx(0.25)
    assert by_block.drop("mid_block").to_numpy() == pytest.approx(0.5)


def test_every_layer_has_its_kind() -> None:
    kinds = [vectors.kind_of(*layer) for layer in (
        ("down_blocks.0.resnets.0.conv1", 4), ("mid_block.attentions.0.to_q", 2), ("time_embedding.linear_1", 2),
        ("mid_block.resnets.0.time_emb_proj", 2), ("conv_norm_out", 1), ("class_embedding", 2),
    )]  # fmt: skip
    assert kinds == ["convolution", "attention", "time embedding", "time embedding", "norm", "linear"]


def test_cosines_of_all_pairs(run: Run) -> None:
    table = cosines.compute(run).set_index(["a", "b"])["cosine"]
    assert len(table) == 10
    assert table["expert 2", "own samples"] == pytest.approx(1)  # the same finetune here
    assert table["expert 1", "own samples"] == pytest.approx(table["expert 1", "expert 2"])
    assert abs(table["expert 1", "random1 1"]) < 0.1


def test_vectors_of_other_layers_have_no_cosine(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.models, tmp_path / "models")
    longer = read_tensors(run.vector("own samples")) | {"mid_block.projection.weight": torch.zeros(8, 8, 1, 1)}
    write_tensors(tmp_path / "models/own/1.safetensors", longer)
    other = replace(run, models=tmp_path / "models")
    assert "own samples" not in {*cosines.compute(other)["a"], *cosines.compute(other)["b"]}


def test_shares_of_channel_and_position_by_hand(rng: np.random.Generator) -> None:
    def shares(change: np.ndarray) -> tuple[float, float]:
        channel, space = activations.shares(torch.from_numpy(change))
        return float(channel[0]), float(space[0])

    channel, space = rng.standard_normal((1, 6, 1, 1)), rng.standard_normal((1, 1, 4, 4))
    ones = np.ones((1, 6, 4, 4))
    assert shares(channel * ones) == pytest.approx((1, 0))
    assert shares(space * ones + 3) == pytest.approx((0, 1))
    parts = channel.var(), space.var()
    assert shares(channel + space + 0 * ones) == pytest.approx([part / sum(parts) for part in parts])
    noise = torch.from_numpy(rng.standard_normal((4000, 6, 4, 4)))
    found = [float(share.mean()) for share in activations.shares(noise)]
    assert found == pytest.approx([5 / 95, 15 / 95], rel=0.03)  # what chance gives
    *_, space_chance = activations.measures(noise, noise + 1e-3 * noise)
    assert space_chance == pytest.approx(15 / 95)


def test_a_change_is_looked_at_where_it_was_learned() -> None:
    ranges = TimestepRanges.equal(2, 1000)
    assert [activations.span_of(name, ranges) for name in ("expert 2", "random1 1", "own samples", "min_snr")] == [
        (500, 1000), (0, 500), (0, 1000), (0, 1000),
    ]  # fmt: skip


def test_pictures_are_the_first_ones_and_those_that_differ_most(run: Run) -> None:
    table = before_after.compute(run)
    assert table.loc[table["why"] == before_after.FIRST, "image"].tolist() == [0, 1, 2]
    most = table[table["why"] == before_after.MOST]
    assert {*most["image"][:2]} == {5, 7}
    assert most["distance"].is_monotonic_decreasing
    assert most["distance"].iloc[2] == 0  # all else is equal
    assert table["mean"].iloc[0] == pytest.approx(most["distance"].sum() / 64)


def test_some_examples_are_examples_of_the_set(digits: torch.Tensor) -> None:
    some = SomeExamples(Pixels(digits), 10)
    assert (len(some), some.shape) == (10, (1, 8, 8))
    drawn, _ = some.draw(torch.arange(10), torch.Generator())
    whole, _ = Pixels(digits).draw(some.chosen, torch.Generator())
    assert torch.equal(drawn, whole)
    assert len(SomeExamples(Pixels(digits), 1000)) == 64


def test_words_follow_from_the_numbers() -> None:
    assert listed(0.5, 0.25, 0.75) == "0.5 [0.25, 0.75]"
    assert listed(-0.5, -1.25, 0.25) == "−0.5 [−1.25, 0.25], not told from 0"
    assert listed(float("nan"), 0, 1) == "not known at this sample"
    assert [number(value) for value in (0.0, 1234.5, 0.000123, -2e6)] == ["0", "1.23e+03", "1.23·10^−4", "−2.00·10^6"]


# The stage


def given(run: Run, out: Path) -> list[object]:
    folders = ("examples", "models", "reference", "search", "samples", "features")
    return [word for name in folders for word in (f"--{name}", getattr(run, name))] + ["--out", out]


@pytest.mark.parametrize("name", FIGURES)
def test_the_stage_writes_numbers_picture_and_caption_always_the_same(
    run: Run, name: str, empty_folder: Path, extractor_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params |= {"N": N, "analyse": SMALL, "reference": {"extractor": str(extractor_dir), "statistics": None}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for out in ("once", "again"):
        stage("analyse", "--figure", name, *given(run, Path(out)), monkeypatch=monkeypatch)
    assert files_of(Path("once")) == files_of(Path("again"))
    assert {*files_of(Path("once"))} == {f"{name}.csv", f"{name}.md", f"{name}.png"}
    table = pd.read_csv(f"once/{name}.csv")
    assert len(table)
    with Image.open(f"once/{name}.png") as picture:
        assert picture.width > 400
    text = Path(f"once/{name}.md").read_text()
    assert f"]({name}.png)" in text
    assert "The p" in text  # the paper, or its proof
    assert "nan" not in text


def test_a_search_that_kept_0_shows_its_best_finalist(run: Run, tmp_path: Path) -> None:
    search_result([0.0, 0.0], best=[0.5, 0.25]).write(tmp_path / "result.json")
    caption = write_figure("critical_point", replace(run, search=tmp_path), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/critical_point.csv")
    assert table["gradient"].tolist() == 2 * ["all t", "[0, 500)", "[500, 1000)", "Σ wᵢ∇Lᵢ, best finalist"]
    assert table["at"].unique().tolist() == ["θ", "θ, in the span of the experts"]  # the merge is the base
    assert "that of Σ wᵢ∇Lᵢ, best finalist is" in caption


def test_the_landscape_has_distances_where_they_are_asked_for(run: Run, tmp_path: Path) -> None:
    asked = replace(run, params=analyse_params(distance_images=12, plane=("expert 1", "random1 2")))
    write_figure("landscape", asked, tmp_path)
    table = pd.read_csv(tmp_path / "landscape.csv")
    distances = table[table["part"] == "Fréchet distance"]
    assert len(distances) == 25
    assert (distances["value"] > 0).all()
    marks = table[table["what"] == "mark"].set_index("name")
    assert marks.loc["θ + τ of random1 2", "value"] == 1
    assert marks.loc["merge, searched w", "value"] < 1


def test_one_expert_and_the_null_span_a_plane(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.models / "n2", tmp_path / "models/n1")
    shutil.copytree(run.models / "pretrained", tmp_path / "models/pretrained")
    shutil.copytree(run.models / "own", tmp_path / "models/own")
    for folder in ("vectors", "random/1"):
        (tmp_path / "models/n1" / folder / "2.safetensors").unlink()
    search_result([0.5]).write(tmp_path / "result.json")
    alone = replace(run, N=1, models=tmp_path / "models", search=tmp_path)
    for name in ("landscape", "gradients", "vectors", "cosines", "activations"):
        write_figure(name, alone, tmp_path / "out")
    assert "θ + τ of random1 1" in pd.read_csv(tmp_path / "out/landscape.csv")["name"].tolist()


@pytest.mark.filterwarnings("error")
def test_a_sample_too_small_for_any_cosine_is_drawn_without_a_warning(run: Run, tmp_path: Path) -> None:
    blocks, ranges = ("whole network", "span of the experts"), ("[0, 500)", "[500, 1000)")
    norms = [[block, "squared norm", a, a, 0.1, -0.2, 0.4, 6, 6] for block in blocks for a in ranges]
    table = pd.DataFrame(norms, columns=["block", "what", "a", "b", "value", "low", "high", "weights", "of"])
    FIGURES["gradients"].draw(table, run, tmp_path / "gradients.png")
    assert "told from 0 in 0 of 2 bins of t" in FIGURES["gradients"].caption(table, run)


def test_no_figure_changes_a_model(run: Run, tmp_path: Path) -> None:
    before = files_of(run.models)
    base = load_denoiser(denoiser_dir(run.pretrained)).state_dict()
    for name in ("gradients", "landscape"):
        write_figure(name, run, tmp_path)
    assert files_of(run.models) == before
    assert all(torch.equal(value, base[key]) for key, value in load_denoiser(run.base).state_dict().items())
    assert re.fullmatch(r"[0-9a-f]{64}", read_recipe(run.vector("expert 1"))["base_sha256"])
