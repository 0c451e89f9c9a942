"""A text-to-image pipeline through every stage that unconditional models pass, in one process, on random weights."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from clip_stand_in import Lengths
from conftest import REPOSITORY as ROOT
from conftest import N, files_of, job_of, never, stage, training_params
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from text_to_image import CHANGES, SIZE, UNET, write_stable_diffusion

from deme_core import components
from deme_core.checkpoints import WEIGHTS, load_denoiser, load_noise_schedule
from deme_core.data.archive import read_images, read_protocol
from deme_core.data.examples import load_examples
from deme_core.inputs import inputs
from deme_core.projection import fold_projections, insert_projections
from deme_core.tensors import read_tensors
from deme_core.training.loop import train

FROZEN = ("feature_extractor", "safety_checker", "scheduler", "text_encoder", "tokenizer", "vae")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub has it, pickles included; not to be written to."""
    return write_stable_diffusion(tmp_path_factory.mktemp("hub") / "sd")


@pytest.fixture(scope="module")
def project(hub: Path, extractor_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage but those of features and report has run."""
    folder = tmp_path_factory.mktemp("project")
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"N": N}
    params["pretrain_load"]["source"], params["reference"]["extractor"] = str(hub), str(extractor_dir)
    for name, changes in CHANGES.items():
        params[name] |= changes
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


LAUNCHED = """
import runpy, sys
from pathlib import Path
import torch
from deme_core.data import encode
from deme_core.processes import agreed, partial_state, shared
from deme_core.data import archive
archive.PER_ARCHIVE, encode.CHUNK = 8, 500
process = partial_state()
for count in (1, 3, 4, 5, 12):
    rows = shared(lambda first, n: torch.arange(first, first + n)[:, None], count, 4)
    assert rows.squeeze(1).tolist() == list(range(count)), rows
assert agreed([process.process_index + 0.1, 2.0]) == [0.1, 2.0]
Path(f"process-{process.process_index}-of-{process.num_processes}").touch()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""  # small files, so that each process has some


@pytest.mark.parametrize(
    "name", ["merge_search", *(pytest.param(name, marks=pytest.mark.slow) for name in ("encode", "sample"))]
)
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


def test_the_merged_pipeline_keeps_every_other_component_byte_for_byte(hub: Path, project: Path) -> None:
    merged, original = files_of(project / "models" / "merged"), files_of(hub)
    made = {name for name in merged if name.startswith("unet/")} | {"README.md", "merge.json"}
    assert merged.keys() - made == {name for name in original if not name.endswith(".bin")} - made
    assert all(merged[name] == original[name] for name in merged.keys() - made)
    assert {name.split("/")[0] for name in merged.keys() - made} == {*FROZEN, "model_index.json"}


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
    for name, options in (("a", {}), ("b", {"gradient_checkpointing": True, "ema_offload": True})):
        student = load_denoiser(hub / "unet")
        train(
            student, schedule, examples, job_of(training_params(**plain | options)), tmp_path / name
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
