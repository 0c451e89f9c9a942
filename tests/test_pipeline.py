"""The DVC pipeline from end to end, on a toy copy of the repository: what runs, what does not, and what it writes."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import write_pipeline
from dag_runs import whole_dag
from diffusers import DiffusionPipeline
from toy_run import CORE, change_params, dvc, every_stage, make_toy, outputs, repro, stages_run

from deme_core.checkpoints import WEIGHTS, load_denoiser
from deme_core.dag import BASELINES, DEME
from deme_core.metrics.headline import headline
from deme_core.metrics.intervals import paired_interval
from deme_core.search.lines import LINES
from deme_core.tensors import read_recipe, weights_hash

slow = [pytest.mark.slow, pytest.mark.timeout(1800)]
MODELS = ("pretrained", *DEME)


@pytest.fixture(scope="module")
def toy(pipeline: Path, extractor_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy copy of the repository in which nothing has run."""
    return make_toy(tmp_path_factory.mktemp("toy") / "project", pipeline, extractor_dir)


@pytest.fixture(scope="module")
def first(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The toy project after its first repro, not to be written to; the stages that ran."""
    project = Path(shutil.copytree(toy, tmp_path_factory.mktemp("first") / "project", symlinks=True))
    return project, repro(project)


@pytest.fixture
def finished(first: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A copy of the project after its first repro."""
    return Path(shutil.copytree(first[0], tmp_path / "project", symlinks=True))


def choose_baselines(project: Path, baselines: list[str]) -> None:
    """What `dvc exp run -S baselines=…` composes into params.yaml."""
    change_params(project, {"baselines": baselines, "dag": whole_dag(2, baselines)})


class TestFinished:
    """On the toy project after one whole repro, of some minutes."""

    pytestmark = slow

    def test_the_first_repro_runs_every_stage_once(self, first: tuple[Path, list[str]]) -> None:
        assert sorted(first[1]) == sorted(every_stage(2))
        assert first[1][0] == "validate"

    def test_metrics_of_all_models_have_the_same_keys_and_are_finite(self, first: tuple[Path, list[str]]) -> None:
        metrics = {path.stem: json.loads(path.read_text()) for path in (first[0] / "measures").glob("*.json")}
        assert sorted(metrics) == sorted(whole_dag(2, [])["models"])
        assert len({tuple(values) for values in metrics.values()}) == 1
        for values in metrics.values():
            assert not any(isinstance(value, dict | list) for value in values.values())
            assert all(math.isfinite(value) for value in values.values() if isinstance(value, float))
            assert values["images"] == 120
            assert values["seed_block"] == "EVALUATION"
            assert values["sampler_steps"] == 2
        assert metrics["pretrained"]["frechet_train_change"] == 0
        for model, values in metrics.items():
            assert json.loads((first[0] / "metrics" / f"{model}.json").read_text()) == headline(values)
        assert metrics["ensemble"]["parameters"] == 2 * metrics["merged"]["parameters"]
        assert metrics["merged"]["macs_per_step"] == metrics["pretrained"]["macs_per_step"]
        assert len({values["frechet_train"] for values in metrics.values()}) > 2

    def test_the_merged_folder_is_a_pipeline_with_its_search_in_it(self, first: tuple[Path, list[str]]) -> None:
        merged = first[0] / "models" / "n2" / "merged"
        search = json.loads((first[0] / "search" / "n2" / "merged" / "result.json").read_text())
        recipe = json.loads((merged / "merge.json").read_text())
        assert recipe["weights"] == search["weights"]
        assert recipe["search"] == search
        assert search["trials"] == 4  # {0, 0.5}² holds w = 0 and w = 1/2
        unet = DiffusionPipeline.from_pretrained(merged).unet
        assert unet.state_dict().keys() == load_denoiser(first[0] / "zoo" / "digits-ddpm" / "unet").state_dict().keys()

    def test_the_loss_matrix_has_a_row_a_model_and_a_column_a_range(self, first: tuple[Path, list[str]]) -> None:
        header, *rows = csv.reader((first[0] / "reports" / "loss_matrix.csv").read_text().splitlines())
        assert header == ["model", "[0, 500)", "[500, 1000)"]
        assert [row[0] for row in rows] == ["pretrained", "expert 1", "expert 2", "merged_uniform", "merged"]
        assert all(0 < float(value) < 10 for row in rows for value in row[1:])

    def test_a_second_repro_has_nothing_to_do(self, finished: Path) -> None:
        before = outputs(finished)
        run = dvc(finished, "repro")
        assert run.returncode == 0, run.stdout
        assert stages_run(run.stdout) == []
        assert "up to date" in run.stdout
        assert outputs(finished) == before

    def test_every_output_is_the_same_when_made_again(self, finished: Path) -> None:
        """dvc.lock, which holds the hash of every output, does not change."""
        before, lock = outputs(finished), (finished / "dvc.lock").read_text()
        shutil.rmtree(finished / ".checkpoints")
        assert sorted(repro(finished, "--force", "--no-run-cache")) == sorted(every_stage(2))
        assert outputs(finished) == before
        assert (finished / "dvc.lock").read_text() == lock

    def test_p_retrains_the_experts_but_not_what_stands_before_them(self, finished: Path) -> None:
        before = outputs(finished)
        change_params(finished, {"p": 0.9})
        ran = repro(finished)
        assert {"validate", "finetune_range@1", "finetune_range@2", "merge_search", "sample@ensemble"} <= set(ran)
        assert not {"data", "reference", "pretrain_load", "sample@pretrained", "features@pretrained"} & set(ran)
        expert = "models/n2/ensemble/1/diffusion_pytorch_model.safetensors"
        assert outputs(finished)[expert] != before[expert]

    def test_the_search_retrains_and_resamples_nothing_else(self, finished: Path) -> None:
        change_params(finished, {"merge_search": {"values": [0.0, 1.0], "finalists": 2}})
        ran = set(repro(finished))
        assert {"validate", "merge_search"} <= ran
        above = {"data", "reference", "pretrain_load", "finetune_range@1", "task_vector@1", "gate", "merge_uniform"}
        above |= {f"{stage}@{m}" for stage in ("sample", "features", "evaluate") for m in MODELS if m != "merged"}
        assert not ran & above

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"p": 1.5}, "error: params: p = 1.5: a probability must lie in [0, 1]"),
            ({"finetune_range": {"iteratoins": 5}}, "error: params: unknown key finetune_range.iteratoins; valid keys"),
            ({"sample": {"images": 100}}, "error: params: sample.images = 100: must be a multiple of 60"),
        ],
    )
    def test_a_wrong_param_stops_in_validate_and_leaves_every_output(
        self, finished: Path, change: dict[str, Any], message: str
    ) -> None:
        before, params = outputs(finished), (finished / "params.yaml").read_text()
        change_params(finished, change)
        run = dvc(finished, "repro")
        assert run.returncode != 0
        assert stages_run(run.stdout) == ["validate"]
        (line,) = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
        assert line.startswith(message)
        assert "Traceback" not in run.stdout
        assert outputs(finished) == before

        (finished / "params.yaml").write_text(params)
        assert set(repro(finished)) <= {"validate"}
        assert outputs(finished) == before

    def test_a_shipped_base_that_changes_is_loaded_again(self, finished: Path) -> None:
        shutil.rmtree(finished / "zoo" / "digits-ddpm")
        write_pipeline(finished / "zoo" / "digits-ddpm", seed=1)
        assert "pretrain_load" in repro(finished, "pretrain_load")

    def test_more_sampling_steps_than_timesteps_stop_in_validate(self, finished: Path) -> None:
        change_params(finished, {"sampler": {"steps": 1001}})
        assert dvc(finished, "repro", "validate").returncode != 0

    def test_baselines_retrain_no_expert_and_resample_no_model(self, finished: Path) -> None:
        before = outputs(finished)
        choose_baselines(finished, CORE)
        ran = repro(finished)
        told = {"validate", "gate", "report", "page"}
        assert sorted(ran) == sorted({*every_stage(2, CORE)} - {*every_stage(2)} | told)
        after = outputs(finished)
        kept = {file for file in before if not file.startswith(("reports/run/", "reports/index"))}
        assert {file: after[file] for file in kept} == {file: before[file] for file in kept}
        choose_baselines(finished, [])
        assert set(repro(finished)) <= told
        assert outputs(finished)["reports/run/results.md"] == before["reports/run/results.md"]


@pytest.fixture(scope="module")
def baselines(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The toy project after its first repro with every baseline, not to be written to; the stages that ran."""
    project = Path(shutil.copytree(toy, tmp_path_factory.mktemp("baselines") / "project", symlinks=True))
    choose_baselines(project, list(BASELINES))
    return project, repro(project)


class TestBaselines:
    """On the toy project after one whole repro with every baseline."""

    pytestmark = slow

    def test_every_stage_runs_once(self, baselines: tuple[Path, list[str]]) -> None:
        assert sorted(baselines[1]) == sorted(every_stage(2, BASELINES))

    def test_every_model_is_measured_alike(self, baselines: tuple[Path, list[str]]) -> None:
        models = whole_dag(2, BASELINES)["models"]
        metrics = {path.stem: json.loads(path.read_text()) for path in (baselines[0] / "measures").glob("*.json")}
        assert sorted(metrics) == sorted(models)
        assert len({tuple(values) for values in metrics.values()}) == 1
        for model, values in metrics.items():
            assert all(math.isfinite(value) for value in values.values() if isinstance(value, float))
            assert values["images"] == 120
            base = metrics["pretrained"]
            parameters = 2 if model == "ensemble" else 1
            assert values["parameters"] == parameters * base["parameters"], model
            assert values["macs_per_step"] == base["macs_per_step"], model
        trained = {metrics[model]["frechet_train"] for model in ("pretrained", "ensemble", *BASELINES[:5])}
        assert len(trained) == 7

    def test_block_scores_give_the_changes(self, baselines: tuple[Path, list[str]]) -> None:
        models = whole_dag(2, BASELINES)["models"]
        scores = {
            m: pd.read_csv(baselines[0] / "scores" / f"{path}.csv", index_col="block") for m, path in models.items()
        }
        for model, blocks in scores.items():
            metrics = json.loads((baselines[0] / "measures" / f"{model}.json").read_text())
            assert list(blocks.index) == list(range(metrics["seed_blocks"]))
            for key in ("frechet_train", "frechet_heldout", "kid_train", "kid_heldout"):
                change = paired_interval(blocks[key], scores["pretrained"][key])
                assert metrics[f"{key}_change"] == pytest.approx(change.value, rel=1e-9, abs=1e-12)
                assert metrics[f"{key}_change_low"] == pytest.approx(change.low, rel=1e-9, abs=1e-12)

    def test_members_searches_and_merges_of_the_baselines(self, baselines: tuple[Path, list[str]]) -> None:
        models, section = baselines[0] / "models" / "n2", whole_dag(2, BASELINES)
        theta = weights_hash(baselines[0] / "models" / "pretrained" / "unet" / WEIGHTS)
        for name in section["finetunes"]:
            members = ["1", "2"] if name == "soup_full_range" else ["1"]
            assert sorted(path.name for path in (models / "baselines" / name).iterdir() if path.is_dir()) == members
            merge = json.loads((models / name / "merge.json").read_text())
            assert (merge["weights"], merge["search"]) == ([1 / len(members)] * len(members), None)
            assert merge["base_sha256"] == theta
        for name, made in section["searches"].items():
            search = json.loads((baselines[0] / "search" / "n2" / name / "result.json").read_text())
            assert search["method"] == ("grid" if made["kind"] in ("nonnegative", "deme") else made["kind"])
            assert search["trials"] == (3 if made["kind"] in LINES else 4)  # 0, ±1, ±0.5; {0, 0.5}²; 4 soups of 2
            merge = json.loads((models / name / "merge.json").read_text())
            assert (merge["weights"], merge["search"]) == (search["weights"], search)
        result = json.loads((baselines[0] / "search" / "n2" / "merged_nonnegative" / "result.json").read_text())
        recipe = read_recipe(models / "baselines" / "loss_equivalent" / "1" / WEIGHTS)
        assert recipe["merge_weights"] == result["weights"]
        same = weights_hash(models / "loss_equivalent" / "unet" / WEIGHTS) == theta
        assert same == (not any(result["weights"]))

    def test_the_report_compares_with_the_best_baseline(self, baselines: tuple[Path, list[str]]) -> None:
        table = pd.read_csv(baselines[0] / "reports" / "run" / "results.csv", index_col="model")
        assert list(table.index) == list(whole_dag(2, BASELINES)["models"])
        text = (baselines[0] / "reports" / "run" / "results.md").read_text()
        assert text.count("Beside the best baseline, ") == 1

    def test_a_second_repro_has_nothing_to_do(self, baselines: tuple[Path, list[str]], tmp_path: Path) -> None:
        project = Path(shutil.copytree(baselines[0], tmp_path / "project", symlinks=True))
        assert repro(project) == []
        assert outputs(project) == outputs(baselines[0])
