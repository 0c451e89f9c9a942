"""`make check`: every artefact there or missing with its remedy, and costs that follow from params and model."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import REPOSITORY, never, sampler_params, training_params
from dag_runs import ASKED
from huggingface_hub.errors import LocalEntryNotFoundError
from text_to_image import write_stable_diffusion

from deme_core.amounts import amount
from deme_core.dag import dag
from deme_core.data.images import DataParams
from deme_core.data.sources import SOURCES, Source, read_digits
from deme_core.errors import InputError
from deme_core.metrics.clip_score import ClipScoreParams
from deme_core.metrics.features import EXTRACTORS, FeatureParams, Kind
from deme_core.params import read
from deme_core.preflight.artefacts import Artefact, artefacts, measure_artefacts, model_folder
from deme_core.preflight.check import check, fits
from deme_core.preflight.costs import Counts, measure, timed
from deme_core.prompts.settings import PromptParams
from deme_core.sampling.settings import OwnParams, SampleParams
from deme_core.search.settings import SearchParams
from deme_core.training.scratch import PretrainParams

OWN = OwnParams(images=50, ranges=1)
SEARCH = SearchParams(
    method="grid", objective="frechet", budget=90, images=10, bounds=(0.0, 1.0), fixed=None, values=(0.0, 1.0),
    scales=(0.5,), away=(), per_block=False, towards_shared=0.001,
    seed=0, finalists=2, final_images=40, final_blocks=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The hub's cache: id -> snapshot; anything that reaches for the network fails."""
    cache: dict[str, Path] = {}

    def snapshot_download(name: str, *, local_files_only: bool, **_: Any) -> str:
        assert local_files_only
        if name not in cache:
            raise LocalEntryNotFoundError(name)
        return str(cache[name])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return cache


def data(source: str, path: object = None) -> DataParams:
    return DataParams(source=source, path=path and str(path), size=8, held_out=0.1)


def pretrain(source: object, revision: str | None = None) -> PretrainParams:
    return PretrainParams(source=str(source), revision=revision, train=None)


def one(found: list[Artefact], kind: str) -> Artefact:
    (artefact,) = [artefact for artefact in found if artefact.kind == kind]
    return artefact


def test_a_source_or_an_extractor_that_is_entered_once_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Source(read=read_digits, put="put mine there", packages=(("mine", "no_module_of_mine"),))
    monkeypatch.setitem(SOURCES, "mine", mine)
    kind = Kind(never, {"side": int}, lambda config: None, ("{folder}/{side}.bin", "make {side} of {folder}"))
    monkeypatch.setitem(EXTRACTORS, "Mine", kind)
    (tmp_path / "config.json").write_text('{"_class_name": "Mine", "side": 3}')
    found = artefacts(data("mine", tmp_path / "x"), pretrain("x/y"), FeatureParams(extractor=str(tmp_path)))[1:]
    assert [(one.kind, one.name, one.path, one.remedy) for one in found] == [
        ("data", str(tmp_path / "x"), None, "put mine there"),
        ("package", "mine", None, "pip install 'deme[real-images]'"),
        ("extractor", f"{tmp_path}/3.bin", None, f"make 3 of {tmp_path}"),
    ]


def of_source(params: DataParams, folder: Path) -> list[Artefact]:
    """What the data need, without the model before them and the extractor after."""
    return artefacts(params, pretrain("x/y"), FeatureParams(extractor=str(folder)))[1:-1]


@pytest.mark.parametrize("source", ["idx", "folder", "zip", "parquet"])
def test_data_on_disk_are_there_with_their_size_or_missing_with_their_place(tmp_path: Path, source: str) -> None:
    missing = of_source(data(source, tmp_path / "nothing"), tmp_path)[0]
    assert (missing.path, missing.size) == (None, None)
    assert "there" in missing.remedy
    path = tmp_path / "there"
    if source in ("idx", "folder"):
        path.mkdir()
        (path / "file").write_bytes(b"12345")
    else:
        path.write_bytes(b"12345")
    found = of_source(data(source, path), tmp_path)[0]
    assert (found.path, found.size) == (path, 5)


def test_a_hub_data_set_is_there_when_it_is_in_the_cache(tmp_path: Path, hub: dict[str, Path]) -> None:
    params = replace(data("hub", "owner/images"), revision="abc")
    missing = one(of_source(params, tmp_path), "data")
    assert (missing.path, missing.remedy) == (None, "hf download --repo-type dataset owner/images --revision abc")
    hub["owner/images"] = tmp_path
    assert one(of_source(params, tmp_path), "data").path == tmp_path
    streamed = one(of_source(replace(params, path="owner/others", stream=5), tmp_path), "data")
    assert streamed.path is not None and "first 5 images, which the stage data downloads" in streamed.name


def test_a_model_may_be_a_folder_or_in_the_cache(tmp_path: Path, pipeline: Path, hub: dict[str, Path]) -> None:
    assert model_folder(pretrain(pipeline)) == pipeline
    assert model_folder(pretrain("owner/name")) is None
    hub["owner/name"] = pipeline
    assert model_folder(pretrain("owner/name")) == pipeline
    assert model_folder(pretrain("owner/name/unet")) == pipeline / "unet"
    hub["owner/half"] = tmp_path
    assert model_folder(pretrain("owner/half")) is None
    for malformed in ("nothing", "a/b/c/d", "..", ""):
        assert model_folder(pretrain(malformed)) is None


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("owner/name", "hf download owner/name --revision main"),
        ("owner/name/unet_ema", "hf download owner/name --revision main"),
    ],
)
def test_a_missing_model_says_how_to_get_it(source: str, remedy: str, extractor_dir: Path) -> None:
    found = artefacts(data("digits"), pretrain(source, "main"), FeatureParams(extractor=str(extractor_dir)))
    assert one(found, "model").remedy == f"put the pipeline there, or {remedy}"
    assert one(found, "extractor").size


@pytest.mark.parametrize("source", ["./model", "my models/base", "/home/me/my model", "~/model", "model"])
def test_what_is_no_hub_id_is_not_fetched_from_it(
    source: str, extractor_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    remedy = one(
        artefacts(data("digits"), pretrain(source), FeatureParams(extractor=str(extractor_dir))), "model"
    ).remedy
    assert remedy == "put the pipeline there"
    assert "hf download" not in remedy
    clip = {"x": PromptParams(source="file", path="x.txt")}, ClipScoreParams(model=source, pretrained=None)
    assert "hf download" not in one(measure_artefacts(*clip), "CLIP").remedy


@pytest.mark.parametrize("cached", [True, False])
def test_a_model_that_is_broken_says_how(
    cached: bool, pipeline_copy: Path, extractor_dir: Path, hub: dict[str, Path]
) -> None:
    (pipeline_copy / "unet" / "config.json").write_text('{"sample_size": 8')
    hub["owner/name"] = pipeline_copy
    params = pretrain("owner/name" if cached else pipeline_copy)
    found = one(artefacts(data("digits"), params, FeatureParams(extractor=str(extractor_dir))), "model")
    assert found.path is None
    assert found.remedy.startswith(f"{pipeline_copy / 'unet' / 'config.json'}: no valid JSON")


def test_a_model_of_the_zoo_that_is_not_trained_names_its_training(tmp_path: Path, extractor_dir: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    found = artefacts(data("digits"), pretrain(tmp_path), FeatureParams(extractor=str(extractor_dir)))
    assert one(found, "model").path is None
    assert one(found, "model").remedy == f"python zoo/train_ddpm.py {tmp_path}"
    found = artefacts(data("digits"), pretrain(tmp_path), FeatureParams(extractor=str(tmp_path)))
    assert one(found, "extractor").remedy == f"python zoo/train_features.py {tmp_path}"


def test_extractors_name_their_weights_and_packages(monkeypatch: pytest.MonkeyPatch, hub: dict[str, Path]) -> None:
    monkeypatch.chdir(REPOSITORY)
    found = {name: artefacts(data("digits"), pretrain("x/y"), FeatureParams(extractor=f"zoo/{name}"))[2:]
             for name in ("inception-clean", "dinov2-large", "clip-vit-b-32", "nothing")}  # fmt: skip
    assert [artefact.name for artefact in found["inception-clean"]] == ["weights/inception-2015-12-05.pt", "clean-fid"]
    assert [artefact.remedy for artefact in found["dinov2-large"]] == ["hf download facebook/dinov2-large"]
    assert [artefact.name for artefact in found["clip-vit-b-32"]][1:] == ["open_clip_torch", "torchvision"]
    assert "no zoo/nothing/config.json" in found["nothing"][0].remedy


def test_a_file_of_statistics_is_an_artefact(tmp_path: Path, extractor_dir: Path) -> None:
    params = FeatureParams(extractor=str(extractor_dir), statistics=str(tmp_path / "x.npz"))
    assert one(artefacts(data("digits"), pretrain("x/y"), params), "reference").path is None
    (tmp_path / "x.npz").touch()
    assert one(artefacts(data("digits"), pretrain("x/y"), params), "reference").path


# Costs


def test_prompt_sets_need_real_images_and_a_clip_model(
    tmp_path: Path, hub: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {
        "coco": PromptParams(source="coco", path=str(tmp_path / "captions.json"), reference=str(tmp_path / "coco.x")),
        "own": PromptParams(source="heldout", path="data/images", reference="data/reference/heldout.safetensors"),
    }
    folder = ClipScoreParams(model=str(tmp_path), pretrained=None)
    found = measure_artefacts(sets, folder)
    assert one(found, "reference").remedy == f"python -m deme_core.metrics … --out {tmp_path / 'coco.x'}"
    assert one(found, "CLIP").path == tmp_path
    repository = ClipScoreParams(model="owner/clip", pretrained=None, revision="abc")
    assert one(measure_artefacts(sets, repository), "CLIP").remedy == "hf download owner/clip --revision abc"
    hub["owner/clip"] = tmp_path
    assert one(measure_artefacts(sets, repository), "CLIP").path == tmp_path
    assert measure_artefacts({}, ClipScoreParams()) == []
    monkeypatch.setattr("deme_core.preflight.artefacts.find_spec", lambda _: None)
    assert one(measure_artefacts(sets, ClipScoreParams()), "CLIP").name == "ViT-g-14/laion2b_s12b_b42k"


def test_the_counts_are_those_of_the_stages() -> None:
    training = training_params(iterations=12, batch_size=8, gradient_accumulation=2)
    own = Counts.of(2, dag(2, []), training, SEARCH, sampler_params(steps=3), SampleParams(images=100), OWN)
    assert own.trained == 2 * 12 * 8 * 2
    assert own.sampled == 5 * 100  # pretrained, ensemble, merged with uniform and with searched weights, the null
    assert own.searched == 2 * (90 + 4 * 40)  # the budget; two finalists and two anchors; the null's the same
    assert own.calls == 3
    baselines = dag(2, ["full_range", "soup_greedy"])
    more = Counts.of(2, baselines, training, SEARCH, sampler_params(steps=3), SampleParams(images=100), OWN)
    prompted = Counts.of(2, dag(2, []), training, SEARCH, sampler_params(steps=3), SampleParams(images=100), OWN, 50)
    assert prompted.sampled == 5 * 150
    assert more.trained == 2 * own.trained
    assert more.sampled == 8 * 100
    assert more.searched > 1.5 * own.searched
    away = Counts.of(
        2, dag(2, [], directions=ASKED), training, SEARCH, sampler_params(steps=3), SampleParams(images=100), OWN
    )
    assert away.trained == own.trained * 3 // 2  # as many steps as one expert
    assert away.sampled == 6 * 100 + 50 + 5


def test_a_run_without_data_costs_its_own_samples() -> None:
    training = training_params(iterations=12, batch_size=8, gradient_accumulation=2)
    own = Counts.of_own(training, sampler_params(steps=3), OwnParams(images=50, ranges=2))
    assert (own.trained, own.searched, own.sampled, own.calls) == (2 * 12 * 8 * 2, 0, 55, 3)


def test_a_measured_step_gives_time_flops_and_disk(pipeline: Path) -> None:
    measured = measure(pipeline, training_params(batch_size=4), sampler_params(block=4))
    assert (measured.pixels, measured.encoded, measured.encoding, measured.decoding) == (64, 0, 0, 0)
    assert measured.state == 4 * measured.parameters * 6
    assert measured.memory == measured.state + max(measured.activations, 4 * measured.parameters)
    assert measured.macs > 0
    assert measured.sampling > 0 and measured.training > 0
    counts = Counts(trained=1000, searched=500, sampled=100, calls=10)
    hours = measured.hours(counts)
    assert hours["training"] == pytest.approx(1000 * measured.training / 3600)
    assert hours["sampling"] == pytest.approx(1000 * measured.sampling / 3600)
    assert measured.disk(2, 3, 4, 100) == 4 * measured.parameters * (2 * (6 + 3) + 4) + 4 * 100 * 64


class FakeGPU:
    """Stands for a GPU's memory, which is no use without one: `step` takes 100 bytes an image beside 1000 that stay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, holds: int) -> None:
        self.holds, self.peak, self.asked = holds, 0, []
        for name, answer in {
            "is_available": lambda: True, "synchronize": lambda: None, "memory_allocated": lambda: 1000,
            "max_memory_allocated": lambda: self.peak, "reset_peak_memory_stats": lambda: setattr(self, "peak", 1000),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, answer)

    def step(self, n: int) -> None:
        self.asked.append(n)
        self.peak = max(self.peak, 1000 + 100 * min(n, self.holds))
        if n > self.holds:
            raise torch.OutOfMemoryError


@pytest.mark.parametrize(
    ("holds", "most", "batch", "asked"),
    [(100, 4, 4, [1, 1, 2, 4]), (5, 16, 4, [1, 1, 2, 4, 8]), (4, 6, 4, [1, 1, 2, 4, 6]), (1, 3, 1, [1, 1, 2])],
)
def test_time_and_memory_are_those_of_the_largest_batch_that_fits(
    holds: int, most: int, batch: int, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGPU(monkeypatch, holds)
    found = timed(gpu.step, most)
    assert (found.batch, found.peak, gpu.asked) == (batch, 100 * batch, asked)


def test_a_gpu_that_does_not_hold_one_image_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="one image is more than this GPU holds"):
        timed(FakeGPU(monkeypatch, 0).step, 4)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (5.67e9, "5.67 GB"), (999.7e6, "1 GB"), (2.5e15, "2.5 PB")],
)
def test_amounts_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert amount(value, "B") == text


# The answer


def test_a_run_that_has_everything_is_told_its_cost(
    pipeline: Path, extractor_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    params = read(REPOSITORY / "params.yaml")
    params["pretrain_load"]["source"], params["reference"]["extractor"] = str(pipeline), str(extractor_dir)
    params["finetune_range"]["batch_size"] = params["sampler"]["block"] = 4
    report, complete = check(params)
    assert complete
    assert "everything is there" in report
    assert "from what was timed on one " in report
    assert "MISSING" not in report


def test_a_run_of_too_few_images_for_an_interval_is_warned_of(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    params = read(REPOSITORY / "params.yaml")
    params["pretrain_load"]["source"] = str(pipeline)
    params["finetune_range"]["batch_size"] = params["sampler"]["block"] = 4
    report, complete = check(params)
    assert complete and "warning" not in report
    params["sample"]["images"] = 240
    report, complete = check(params)
    assert complete and "warning: Fréchet distances get no corrected value" in report
    (tmp_path / "config.json").write_text("{")  # which it names as missing
    params["reference"]["extractor"] = str(tmp_path)
    assert "config.json: no valid JSON" in check(params)[0]


@pytest.mark.parametrize("preset", sorted(path.stem for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml")))
def test_every_preset_gets_an_answer_offline_and_its_exit_status(preset: str, tmp_path: Path) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    command = [
        sys.executable,
        "conf/check.py",
        f"experiment={preset}",
        "sampler.block=2",
        "finetune_range.batch_size=2",
    ]
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert run.stderr == ""
    assert run.stdout.startswith(f"{preset}: what it needs\n")
    assert run.returncode == ("MISSING" in run.stdout)
    assert ("missing\n" in run.stdout) == bool(run.returncode)


def test_make_hands_the_experiment_over() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "python conf/check.py experiment=$(EXPERIMENT)" in makefile
    assert yaml.safe_load((REPOSITORY / "params.yaml").read_text())["name"] == "digits"


def test_a_text_to_image_model_is_measured_with_its_captions(tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd")
    params = training_params(batch_size=2, gradient_checkpointing=True, ema_offload=True)
    measured = measure(tmp_path / "sd", params, sampler_params(block=2, kind="pndm", guidance=7.5))
    assert measured.pixels == 16 * 16
    assert measured.encoded == 2 * (2 * 4 * 8 * 8 + 12 * 8)
    assert measured.state == 4 * measured.parameters * 5
    assert min(measured.macs, measured.encoding, measured.decoding) > 0
    eight = measure(tmp_path / "sd", replace(params, optimizer="adamw_8bit"), sampler_params(block=2))
    assert eight.state == measured.parameters * (4 * 3 + 2)


def test_the_memory_of_a_training_grows_with_its_batch_and_says_what_it_fits(tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd")
    kept = {
        (batch, saving): measure(
            tmp_path / "sd", training_params(batch_size=batch, gradient_checkpointing=saving), sampler_params(block=1)
        ).activations
        for batch in (1, 4)
        for saving in (False, True)
    }
    assert kept[4, False] == pytest.approx(4 * kept[1, False], rel=0.1)
    assert kept[4, False] / 8 < kept[4, True] < kept[4, False]  # one block of seven is kept whole
    assert fits(int(20e9)) == "fits a GPU of 24 or 80 GB"
    assert fits(int(23e9)) == "fits a GPU of 80 GB"
    assert "gradient_checkpointing, ema_offload" in fits(int(79e9))


def test_files_of_prompts_are_artefacts(tmp_path: Path, extractor_dir: Path) -> None:
    sets = {
        "own": PromptParams(source="file", path=str(tmp_path / "x.txt")),
        "captions": PromptParams(source="heldout", path="data/images"),
    }
    given = data("digits"), pretrain("x/y"), FeatureParams(extractor=str(extractor_dir)), sets
    assert "prompts.own" in one(artefacts(*given), "prompts").remedy
    (tmp_path / "x.txt").touch()
    assert one(artefacts(*given), "prompts").path


@pytest.mark.parametrize(("name", "script"), [("digits-ddpm", "train_ddpm.py"), ("digits-sd", "train_sd.py")])
def test_a_recipe_names_the_script_that_reads_it(
    name: str, script: str, tmp_path: Path, extractor_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo" / name).mkdir(parents=True)
    shutil.copy(REPOSITORY / "zoo" / name / "recipe.yaml", tmp_path / "zoo" / name)
    monkeypatch.chdir(tmp_path)
    features = FeatureParams(extractor=str(extractor_dir))
    assert one(artefacts(data("digits"), pretrain(f"zoo/{name}"), features), "model").remedy == (
        f"python zoo/{script} zoo/{name}"
    )
