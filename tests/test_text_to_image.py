"""A text-to-image pipeline through every stage that unconditional models pass, in one process, on random weights."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from analysed import SMALL
from clip_stand_in import Compass, direction
from conftest import REPOSITORY as ROOT
from conftest import N, files_of, job_of, never, stage, training_params
from dag_runs import run_dag, whole_dag
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from text_to_image import SIZE, UNET, write_stable_diffusion

from deme_core import components
from deme_core.analyses import READS
from deme_core.checkpoints import WEIGHTS, load_denoiser, load_noise_schedule, verify_pipeline
from deme_core.data.archive import read_images, read_protocol
from deme_core.data.examples import load_examples
from deme_core.errors import InputError
from deme_core.hub_layouts import import_pipeline, local_pipeline
from deme_core.inputs import inputs
from deme_core.projection import fold_projections, insert_projections
from deme_core.tensors import read_tensors
from deme_core.training.loop import train

FROZEN = ("feature_extractor", "safety_checker", "scheduler", "text_encoder", "tokenizer", "vae")
CHANGES: dict[str, dict[str, Any]] = {
    "data": {"source": "digits_t2i", "size": SIZE, "held_out": 0.02},
    "finetune_range": {"iterations": 4, "batch_size": 8, "log_every": 2, "checkpoint_every": 4, "caption_dropout": 0.5},
    "merge_search": {
        "method": "grid", "objective": "loss", "budget": 100, "images": 20, "values": [0.0, 0.5], "finalists": 1,
        "final_images": 40, "final_blocks": 2,
    },
    "sampler": {"kind": "pndm", "steps": 2, "block": 4, "guidance": 3.0},
    "sample": {"images": 6, "prompts": "captions"},
    "evaluate": {"blocks": 2},
    "loss_matrix": {"draws": 1},
    "prompts": {
        "captions": {"source": "heldout", "path": "data/images"},
        "two": {"source": "heldout", "path": "data/images", "count": 2, "each": 3, "template": "{} again"},
    },
}  # fmt: skip

SETS: dict[str, dict[str, Any]] = {
    "captions": {"source": "heldout", "path": "data/images", "reference": "data/reference/heldout.safetensors"},
    "few": {"source": "heldout", "path": "data/images", "count": 2, "each": 3},
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub has it, pickles included; not to be written to."""
    return write_stable_diffusion(tmp_path_factory.mktemp("hub") / "sd")


@pytest.fixture
def pipeline(hub: Path, tmp_path: Path) -> Path:
    """As the stage pretrain_load leaves it; may be written to."""
    import_pipeline(hub, tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.fixture(scope="module")
def project(hub: Path, extractor_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage but those of features and report has run."""
    folder = tmp_path_factory.mktemp("project")
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"N": N}
    params["pretrain_load"]["source"], params["reference"]["extractor"] = str(hub), str(extractor_dir)
    for name, own in CHANGES.items():
        params[name] |= own
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"inputs": inputs(params)}))
    base = ["--pretrained", "models/pretrained"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("deme_core.metrics.clip_score.load_open_clip", lambda *_: Lengths([]))

        def run(name: str, *arguments: object) -> None:
            stage(name, *arguments, monkeypatch=patch)

        run("data", "--out", "data/images")
        run("reference", "--data", "data/images", "--out", "data/reference")
        run("pretrain_load", "--data", "data/images", "--out", "models/pretrained")
        for name in CHANGES["prompts"]:
            run("prompts", "--set", name, "--out", f"data/prompts/{name}.json")
        run("encode", "--data", "data/images", *base, "--out", "data/examples")
        with pytest.MonkeyPatch.context() as frozen:  # from here to the sampling, no VAE and no text encoder runs
            frozen.setattr(components.Autoencoder, "__init__", never)
            frozen.setattr(components.TextEncoder, "__init__", never)
            for i in range(1, N + 1):
                expert, vector = f"models/ensemble/{i}", f"models/vectors/{i}.safetensors"
                more = ["--out", expert, "--curve", f"models/curves/{i}.csv"]
                run("finetune_range", "--range", i, *base, "--examples", "data/examples", *more)
                run("task_vector", *base, "--expert", expert, "--out", vector)
            run("merge", *base, "--vectors", "models/vectors", "--out", "models/merged")
            more = ["--merged", "models/merged", "--out", "loss_matrix.csv"]
            run("loss_matrix", "--examples", "data/examples", *base, "--experts", "models/ensemble", *more)
        given = [*base, "--vectors", "models/vectors", "--reference", "data/reference", "--data", "data/images"]
        given += ["--prompts", "data/prompts"]
        run("merge_search", *given, "--examples", "data/examples", "--out", "search")
        for model in ("pretrained", "merged", "ensemble"):
            given = ["--model", f"models/{model}", *base, "--prompts", "data/prompts"]
            run("sample", *given, "--out", f"samples/{model}")
        given = ["--model", "models/merged", *base, "--prompts", "data/prompts"]
        run("sample", *given, "--set", "two", "--out", "samples/two")
    return folder


class Lengths(Compass):
    """A stand-in for a CLIP model: a text's direction is its length."""

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        return direction(torch.tensor([len(text) for text in texts]))


def test_every_stage_of_the_dag_runs_on_the_layout_of_the_hub(
    hub: Path, extractor_dir: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands that DVC makes of dvc.yaml, in the order of its graph; a stand-in takes the place of open_clip."""
    references = {name: own.get("reference") for name, own in SETS.items()}
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {
        "N": N, "dag": whole_dag(N, [], references, analyses="all"), "analyses": "all",
    }  # fmt: skip
    params["pretrain_load"]["source"], params["reference"]["extractor"] = str(hub), str(extractor_dir)
    for name, own in (CHANGES | {"prompts": SETS, "analyse": SMALL}).items():
        params[name] |= own
    params["merge_search"]["objective"], params["sample"]["images"] = "frechet+clip_score", 40
    params["clip_score"] = params["search_clip_score"] = {"model": "compass", "pretrained": None, "revision": None}
    params["gate"]["must_win"], params["own_samples"]["images"] = "ignore", 20
    params["judges"] = {"folder": "judges", "development": "judges"}
    for folder in ("judges/pixels", "compass"):
        Path(folder).mkdir(parents=True)
    Path("judges/pixels/config.json").write_text('{"_class_name": "Pixels", "side": 4}')
    monkeypatch.setattr("deme_core.metrics.clip_score.load_open_clip", lambda *_: Lengths([]))
    ran = run_dag(params, monkeypatch)
    assert ran == {path.stem for path in (ROOT / "stages").glob("*.py")} - {
        "__init__",
        "finetune_baseline",
        "direction",
    }
    assert {"safety_checker", "feature_extractor"} <= {path.name for path in Path(f"models/n{N}/merged").iterdir()}
    assert json.loads(Path(f"search/n{N}/merged/result.json").read_text())["objective"] == "frechet+clip_score"
    assert {path.stem for path in Path("reports/analyses").glob("*.md")} == set(READS)
    table = pd.read_csv("reports/prompts/table2.csv")
    assert {*table["set"]} == {*SETS}
    assert {*table["model"]} == {"pretrained", "ensemble", "merged_uniform", "merged", "random1", "neon"}
    assert table["clip_score"].between(0, 100).all()
    assert table["frechet"].notna().tolist() == (table["set"] == "captions").tolist()


LAUNCHED = """
import runpy, sys
from pathlib import Path
import torch
from deme_core.data import encode
from deme_core.processes import agreed, shared, state
from deme_core.data import archive
archive.PER_ARCHIVE, encode.CHUNK = 8, 500
own = state()
for count in (1, 3, 4, 5, 12):
    rows = shared(lambda first, n: torch.arange(first, first + n)[:, None], count, 4)
    assert rows.squeeze(1).tolist() == list(range(count)), rows
assert agreed([own.process_index + 0.1, 2.0]) == [0.1, 2.0]
Path(f"process-{own.process_index}-of-{own.num_processes}").touch()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""  # small files, so that each process has some


@pytest.mark.parametrize("name", ["encode", "merge_search", "sample"])
def test_two_processes_share_a_stage_and_make_the_same_bytes(project: Path, tmp_path: Path, name: str) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["merge_search"] |= {"objective": "frechet", "method": "gp", "prompts": ["two"]}
    given = {
        "encode": "--data data/images",
        "merge_search": "--vectors models/vectors --reference data/reference --data data/images"
        " --prompts data/prompts --examples data/examples",
        "sample": "--model models/merged --prompts data/prompts --set captions",
    }[name].split()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    made = {}
    for count in (1, 2):
        folder = tmp_path / f"{count}"
        shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".checkpoints"))
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        (folder / "launched.py").write_text(LAUNCHED)
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
        command = [sys.executable, *launch, "launched.py", f"stages.{name}", "--pretrained", "models/pretrained"]
        run = subprocess.run(
            [*command, *given, "--out", "out"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert len(list(folder.glob(f"process-*-of-{count}"))) == count
        made[count] = files_of(folder / "out")
    assert made[1] == made[2] != {}


# The pipeline on disk


def test_the_layout_of_the_hub_is_read_without_its_pickles(hub: Path, pipeline: Path) -> None:
    verify_pipeline(pipeline)
    found, original = files_of(pipeline), files_of(hub)
    assert found == {name: sha for name, sha in original.items() if not name.endswith((".bin", ".md"))}


@pytest.mark.parametrize("part", ["vae", "tokenizer", "text_encoder"])
def test_a_pipeline_without_a_part_is_refused(pipeline: Path, part: str) -> None:
    shutil.rmtree(pipeline / part)
    with pytest.raises(InputError, match=f"'{part}' is missing") as error:
        verify_pipeline(pipeline)
    assert "\n" not in str(error.value)


def test_a_missing_part_is_seen_before_anything_is_copied(hub: Path, tmp_path: Path) -> None:
    shutil.copytree(hub, tmp_path / "sd")
    shutil.rmtree(tmp_path / "sd" / "vae")
    for call in (
        lambda: import_pipeline(tmp_path / "sd", tmp_path / "out"),
        lambda: local_pipeline(str(tmp_path / "sd")),
    ):
        with pytest.raises(InputError, match="'vae' is missing"):
            call()
    assert not (tmp_path / "out").exists()


def test_a_second_text_encoder_is_refused(pipeline: Path) -> None:
    index = json.loads((pipeline / "model_index.json").read_text())
    index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
    (pipeline / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="has a text_encoder_2; only pipelines with one text encoder"):
        verify_pipeline(pipeline)


def test_a_part_that_the_index_does_not_name_is_missing(pipeline: Path) -> None:
    index = json.loads((pipeline / "model_index.json").read_text())
    for nothing in ({"vae": [None, None]}, {}):
        changed = {key: value for key, value in index.items() if key != "vae"} | nothing
        (pipeline / "model_index.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match="'vae' is missing"):
            verify_pipeline(pipeline)


def test_a_part_of_an_unknown_class_or_without_weights_is_refused(pipeline: Path) -> None:
    text = (pipeline / "model_index.json").read_text()
    (pipeline / "model_index.json").write_text(text.replace("AutoencoderKL", "VQModel"))
    with pytest.raises(InputError, match="vae is a VQModel; read is AutoencoderKL"):
        verify_pipeline(pipeline)
    (pipeline / "model_index.json").write_text(text)
    (pipeline / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="text_encoder: holds no weights; fetch them"):
        verify_pipeline(pipeline)


def test_the_merged_pipeline_keeps_every_other_component_byte_for_byte(hub: Path, project: Path) -> None:
    merged, original = files_of(project / "models" / "merged"), files_of(hub)
    own = {name for name in merged if name.startswith("unet/")} | {"README.md", "merge.json"}
    assert merged.keys() - own == {name for name in original if not name.endswith(".bin")} - own
    assert all(merged[name] == original[name] for name in merged.keys() - own)
    assert {name.split("/")[0] for name in merged.keys() - own} == {*FROZEN, "model_index.json"}


def test_stock_diffusers_loads_the_merged_pipeline_with_its_safety_checker(project: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(project / "models" / "merged")
    assert isinstance(pipeline, StableDiffusionPipeline)
    assert pipeline.safety_checker is not None
    theirs = pipeline.unet.state_dict()
    ours = load_denoiser(project / "models" / "merged" / "unet").state_dict()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)


# Training and merging


def test_the_merge_is_theta_and_its_vectors(project: Path) -> None:
    models = project / "models"
    theta, merged = (read_tensors(models / name / "unet" / WEIGHTS) for name in ("pretrained", "merged"))
    taus = [read_tensors(models / "vectors" / f"{i}.safetensors") for i in range(1, N + 1)]
    for key in theta:
        assert torch.allclose(merged[key], theta[key] + sum(tau[key] for tau in taus) / N, atol=1e-6), key
    assert all(bool(tau[key].any()) for tau in taus for key in tau if "attn2.to_k" in key or "conv" in key)


def test_every_range_has_a_curve_and_a_loss(project: Path) -> None:
    for i in range(1, N + 1):
        with (project / "models" / "curves" / f"{i}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["step"] for row in rows] == ["2", "4"]
        assert all(float(row["denoising"]) > 0 for row in rows)
        assert float(rows[-1]["consistency"]) > 0
    with (project / "loss_matrix.csv").open() as file:
        matrix = list(csv.DictReader(file))
    assert [row["model"] for row in matrix] == ["pretrained", "expert 1", "expert 2", "merged"]
    assert all(float(value) > 0 for row in matrix for key, value in row.items() if key != "model")


def test_the_search_finds_weights(project: Path) -> None:
    result = json.loads((project / "search" / "result.json").read_text())
    assert len(result["weights"]) == N
    assert result["objective"] == "loss"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_memory_params_change_nothing_but_memory(
    project: Path, hub: Path, tmp_path: Path, prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = load_noise_schedule(hub)
    schedule.register_to_config(prediction_type=prediction)
    examples, weights = load_examples(project / "data" / "examples", "train"), []
    plain = {"iterations": 2, "log_every": 1, "checkpoint_every": 2, "consistency": 0.0, "projection": "none"}
    for name, own in (("a", {}), ("b", {"gradient_checkpointing": True, "ema_offload": True})):
        student = load_denoiser(hub / "unet")
        train(
            student, schedule, examples, job_of(training_params(**plain | own)), tmp_path / name
        )  # fmt: skip
        weights.append(student.state_dict())
    first, second = weights
    assert all(torch.allclose(first[key], second[key], atol=1e-5) for key in first)


def test_the_projection_has_one_site_a_block_and_folds_everywhere() -> None:
    model = UNet2DConditionModel(**UNET | {"cross_attention_dim": 8}).eval()
    sites = insert_projections(model, "foldable")
    blocks = len(UNET["down_block_types"]) + 1 + len(UNET["up_block_types"])
    assert len(sites) == blocks == 9
    assert {tuple(site.split(".")[:2]) for site in sites if not site.startswith("mid")} == {
        (kind, str(i)) for kind in ("down_blocks", "up_blocks") for i in range(4)
    }
    assert not any("attentions" in site for site in sites)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([3, 700]), torch.randn(2, 5, 8)
    with torch.inference_mode():
        for site in sites:
            weight = model.get_submodule(site).weight
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        before = model(inputs[0], inputs[1], encoder_hidden_states=inputs[2]).sample
        assert fold_projections(model) == []
        after = model(inputs[0], inputs[1], encoder_hidden_states=inputs[2]).sample
    assert torch.allclose(before, after, atol=1e-5)
    assert model.state_dict().keys() == UNet2DConditionModel(**UNET).state_dict().keys()


# Samples


def test_samples_are_images_of_the_prompts(project: Path) -> None:
    prompts = json.loads((project / "data" / "prompts" / "captions.json").read_text())["texts"]
    for model in ("pretrained", "merged", "ensemble"):
        pixels = torch.cat(list(read_images(project / "samples" / model, 6)))
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (6, 1, SIZE, SIZE))
        protocol = read_protocol(project / "samples" / model)
        assert protocol["sampler"]["guidance"] == 3.0
        assert protocol["prompts"] == len(prompts) == 18
        assert protocol["macs_per_step"] > 0
    assert (protocol := read_protocol(project / "samples" / "two"))["images"] == 2 * 3
    assert protocol["prompts"] == 2
