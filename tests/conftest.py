"""Shared by the tests: a tiny pipeline with made-up experts, a few digits, and the params of a short training."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch, and for the processes that tests start

import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from hypothesis import settings
from torch.profiler import ProfilerActivity, profile

from deme_core.checkpoints import denoiser_dir, load_denoiser, save_denoiser, weights_file
from deme_core.data.images import DataParams
from deme_core.data.sources import read_digits
from deme_core.denoising import single
from deme_core.merging import __main__ as merging
from deme_core.merging.task_vectors import vector_files, write_task_vector
from deme_core.metrics.networks import SmallClassifier
from deme_core.projection import insert_projections
from deme_core.sampling.generate import Sampler
from deme_core.sampling.settings import SamplerParams
from deme_core.search.result import SearchResult
from deme_core.seeds import SeedBlock
from deme_core.tensors import weights_hash, write_tensors
from deme_core.timesteps import TimestepRanges
from deme_core.training.job import Job
from deme_core.training.settings import TrainingParams

reads_proc = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
torch.set_num_threads(1)
settings.register_profile("deme", deadline=None, derandomize=True, database=None)
settings.load_profile("deme")

REPOSITORY = Path(__file__).parent.parent
N, T = 2, 1000
ARCHITECTURE = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (4, 8), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 4,
    "add_attention": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test may give torch more threads, for itself alone."""
    yield
    torch.set_num_threads(1)


def write_pipeline(directory: Path, *, seed: int = 0, dropout: float = 0.0, **schedule: Any) -> Path:
    """A DDPMPipeline of about 10,000 random weights; `schedule`: arguments of DDPMScheduler."""
    torch.manual_seed(seed)
    DDPMPipeline(UNet2DModel(**ARCHITECTURE, dropout=dropout), DDPMScheduler(**schedule)).save_pretrained(directory)
    return directory


@torch.no_grad()
def write_expert(pipeline: Path, directory: Path, *, seed: int, placement: str = "none") -> Path:
    """What the stage finetune_range writes, with noise in the place of training: θ + 0.02·noise, W = I + 0.02·noise."""
    model = load_denoiser(denoiser_dir(pipeline))
    insert_projections(model, placement)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    base = weights_hash(weights_file(denoiser_dir(pipeline)))
    recipe = {"base_sha256": base, "bounds": list(TimestepRanges.equal(N, T).bounds), "range": seed}
    save_denoiser(directory, denoiser_dir(pipeline), model.state_dict(), recipe)
    return directory


def write_experts(pipeline: Path, directory: Path, placement: str = "none") -> list[Path]:
    return [write_expert(pipeline, directory / str(i), seed=i, placement=placement) for i in range(1, N + 1)]


def write_vectors(pipeline: Path, experts: Sequence[Path], directory: Path) -> list[Path]:
    for i, expert in enumerate(experts, 1):
        write_task_vector(denoiser_dir(pipeline), expert, directory / f"{i}.safetensors")
    return vector_files(directory)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """θ; not to be written to."""
    return write_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def experts(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of θ_1, θ_2."""
    return write_experts(pipeline, tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="session")
def vectors(pipeline: Path, experts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of τ_1, τ_2."""
    return write_vectors(pipeline, experts, tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="session")
def digits() -> torch.Tensor:
    """64 digits, uint8 [64, 1, 8, 8]."""
    return read_digits(DataParams(source="digits", path=None, size=8, held_out=0.2)).pixels[:64]


@pytest.fixture(scope="session")
def extractor_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature extractor with random weights: 8 features of a grey image."""
    directory = tmp_path_factory.mktemp("extractor")
    torch.manual_seed(0)
    write_tensors(directory / "model.safetensors", SmallClassifier(channels=1, width=8, classes=10).state_dict())
    (directory / "config.json").write_text(
        '{"_class_name": "SmallClassifier", "channels": 1, "width": 8, "classes": 10}\n'
    )
    return directory


@pytest.fixture
def pipeline_copy(pipeline: Path, tmp_path: Path) -> Path:
    """θ, to be written to."""
    return Path(shutil.copytree(pipeline, tmp_path / "pipeline"))


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, and thereby the place of .checkpoints."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rgb_extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extractor of pictures in colour, of random weights."""
    folder = tmp_path_factory.mktemp("rgb")
    torch.manual_seed(0)
    architecture = {"channels": 3, "width": 8, "classes": 10}
    write_tensors(folder / "model.safetensors", SmallClassifier(**architecture).state_dict())
    (folder / "config.json").write_text(json.dumps({"_class_name": "SmallClassifier"} | architecture))
    return folder


def training_params(**changes: Any) -> TrainingParams:
    """A training of seconds; every key can be changed."""
    params = {
        "iterations": 12, "batch_size": 8, "gradient_accumulation": 1, "learning_rate": 1e-3,
        "lr_schedule": "constant", "lr_warmup": 0, "lr_steps": None,
        "adam_beta1": 0.95, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "weight_decay": 1e-6, "max_grad_norm": 1.0,
        "ema_decay": 0.9999, "consistency": 1.0, "timestep_draw": "per_sample", "antithetic": False,
        "projection": "foldable", "horizontal_flip": False, "mixed_precision": "no",
        "dropout": None, "cpu_threads": 1, "report_to": None, "log_every": 2, "checkpoint_every": 4,
    }  # fmt: skip
    return TrainingParams(**params | changes)


def job_of(settings: TrainingParams, **changes: Any) -> Job:
    """A training on the first range; every field can be changed."""
    ranges = TimestepRanges.equal(N, T)
    return Job(**{"label": "test", "ranges": ranges, "p": 0.4, "seed": 0, "settings": settings} | changes)


def sampler_params(**changes: Any) -> SamplerParams:
    return SamplerParams(**{"kind": "ddim", "steps": 3, "spacing": "uniform", "block": 4, "dtype": "float32"} | changes)


def files_of(directory: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of the content."""
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def edit_config(directory: Path, **changes: Any) -> None:
    """Change keys of a folder's config.json."""
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))


def python(code: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True, text=True, env=os.environ | environment, timeout=300,
    )  # fmt: skip


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that torch has allocated on the CPU at once while `call` ran, counted from its start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events: Any = profiler.profiler
    changes = [event.nbytes() for event in events.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(changes), default=0)


def lies_in(value: torch.Tensor, file: Path) -> bool:
    """Whether a tensor's memory is a map of the file that is shared with other processes and read-only (Linux)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, access, *_, name = line.split()
        low, high = (int(end, 16) for end in bounds.split("-"))
        if low <= value.data_ptr() < high:
            return (access, name) == ("r--s", str(file))
    return False


@contextmanager
def synchronisation_is_an_error() -> Iterator[None]:
    """PyTorch's alarm: what waits for the GPU raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def stage(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a stage's script in this process and this folder."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    runpy.run_path(str(REPOSITORY / "stages" / f"{name}.py"), run_name="__main__")


def never(*_: object, **__: object) -> Any:
    """Stands where a call would be a mistake."""
    raise AssertionError("called")


def search_result(weights: Sequence[float], blocks: Sequence[str] = (), **changes: Any) -> SearchResult:
    """Of a search that found these weights."""
    found = {
        "method": "grid", "objective": "frechet", "prompts": [], "extractors": [], "weights": list(weights),
        "blocks": list(blocks), "search_change": -1.5, "search_score": 1.0, "confirm_change": -0.5,
        "confirm_score": 1.5, "gap": 1.0, "confirm_score_pretrained": 2.0,
        "uniform": [len(blocks or [0]) / len(weights)] * len(weights), "confirm_score_uniform": 1.75,
        "best": list(weights), "best_change_unit": "%", "best_change": -25.0, "best_change_low": -30.0,
        "best_change_high": -20.0, "trials": 8, "images_sampled": 4000.0,
    }  # fmt: skip
    return SearchResult(**found | changes)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.fixture(scope="module")
def twelve(pipeline: Path) -> tuple[Sampler, Callable, torch.Tensor]:
    sampler = Sampler.of(pipeline, sampler_params(block=4), torch.device("cpu"))
    denoise = single(load_denoiser(pipeline / "unet"), torch.device("cpu"))
    return sampler, denoise, sampler.images(denoise, SeedBlock.SEARCH, 0, 12)


@pytest.fixture
def run_merge(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command, in this process."""

    def run(*args: object) -> None:
        monkeypatch.setattr(sys, "argv", ["deme_core.merging", *map(str, args)])
        merging.main()

    return run


@pytest.fixture
def base_and_experts(pipeline: Path, experts: list[Path]) -> list[object]:
    return ["--base", pipeline, "--experts", *experts]


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package datasets keeps lies in a folder of the test's own."""
    if find_spec("datasets"):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
