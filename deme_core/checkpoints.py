"""The only place that reads or writes diffusers pipelines and denoisers."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deme_core.components import check_components, read_index
from deme_core.errors import InputError
from deme_core.json_files import blamed_on, read_json
from deme_core.tensor_files import INDEX, Tensors
from deme_core.tensors import check_same_layout, read_recipe, read_tensors, write_tensors
from deme_core.timesteps import TimestepRanges

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl"}
SCHEDULERS = {"DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"}
PREDICTION_TYPES = {"epsilon", "v_prediction", "sample"}
SCHEDULE = Path("scheduler", "scheduler_config.json")
CLASS = {"_class_name": str | None}  # kind of a key of a config.json
DENOISERS = {"UNet2DModel": "unet_2d", "UNet2DConditionModel": "unet_2d_condition"}


def denoiser_dir(pipeline: Path) -> Path:
    """The folder of a pipeline's denoiser, as its model_index.json names it."""
    for name, cls in read_index(pipeline).items():
        if cls in DENOISERS:
            return pipeline / name
    raise InputError(f"{pipeline}: model_index.json names no denoiser; known are {', '.join(DENOISERS)}")


def denoisers(model: Path) -> tuple[list[Path], TimestepRanges | None]:
    """The denoiser folder of a pipeline; or those of the experts 1 … N with their ranges, which they carry."""
    if (model / "model_index.json").is_file():
        return [denoiser_dir(model)], None
    bounds = read_recipe(weights_file(model / "1")).get("bounds")
    if bounds is None:
        raise InputError(f"{model / '1'}: no expert of the stage finetune_range: its metadata names no ranges")
    ranges = TimestepRanges(tuple(bounds))
    return [model / str(i) for i in range(1, ranges.N + 1)], ranges


def denoiser_of(directory: Path) -> Path:
    """The denoiser folder of a pipeline; a plain denoiser folder is its own."""
    return denoiser_dir(directory) if (directory / "model_index.json").is_file() else directory


def class_to_load(directory: Path) -> str:
    """The diffusers class whose `from_pretrained` loads a pipeline or denoiser folder."""
    if (directory / "model_index.json").is_file():
        return "DiffusionPipeline"
    return read_json(directory / "config.json", CLASS).get("_class_name") or "UNet2DModel"


def denoiser_shape(pipeline: Path) -> tuple[int, int, int]:
    """(C, H, W) of the x_0 that a pipeline's denoiser works on."""
    return config_shape(denoiser_dir(pipeline) / "config.json")


def config_shape(file: Path) -> tuple[int, int, int]:
    """(C, H, W) of the x_0 that the denoiser of a config.json works on."""
    return shape_of(read_json(file, {"in_channels": int, "sample_size": int | list}), str(file))


def shape_of(config: Mapping[str, Any], name: str) -> tuple[int, int, int]:
    """(C, H, W) of the x_0 of a denoiser's config, which a message calls `name`."""
    size = config["sample_size"]
    shape = (config["in_channels"], *(size if isinstance(size, list | tuple) else (size, size)))
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise InputError(
            f"{name}: in_channels {shape[0]} and sample_size {size} are no shape of an image: give a number of channels"
            " and one of pixels, or [height, width]"
        )
    return shape


def verify_pipeline(pipeline: Path) -> None:
    """Refuse a pipeline directory that is incomplete, holds a pickle, odd keys, NaN or a scheduler we do not know."""
    refuse_pickles(pipeline)
    denoiser = denoiser_dir(pipeline)
    verify_denoiser(denoiser)
    config_shape(denoiser / "config.json")
    parts = read_index(pipeline)
    check_components(pipeline, parts, parts[denoiser.name])
    file = pipeline / SCHEDULE
    config = read_json(file, {"_class_name": str, "prediction_type": str | None})
    name, prediction = config["_class_name"], config.get("prediction_type", "epsilon")
    if name not in SCHEDULERS:
        raise InputError(f"{file}: scheduler {name} is unknown; known are {', '.join(sorted(SCHEDULERS))}")
    if prediction not in PREDICTION_TYPES:
        raise InputError(
            f"{file}: prediction_type {prediction!r} is unknown; known are {', '.join(sorted(PREDICTION_TYPES))}"
        )
    load_noise_schedule(pipeline)


def refuse_pickles(directory: Path) -> None:
    """Refuse a folder that holds a pickle anywhere."""
    for file in files_below(directory):
        if file.suffix in PICKLES:
            raise InputError(f"{file}: pickled weights are not read; save the model as safetensors and remove it")


def files_below(directory: Path) -> list[Path]:
    """Every file below a folder, sorted, those behind links to folders and links to nothing with them.

    Raises:
        InputError: a link leads back to a folder that it lies in.
    """
    found = []
    for folder, names, files in os.walk(directory, followlinks=True):
        here = Path(folder)
        around = {directory / part for part in (here.relative_to(directory), *here.relative_to(directory).parents)}
        real = {one.resolve() for one in around}
        for link in (here / name for name in names if (here / name).is_symlink()):
            if link.resolve() in real:
                raise InputError(f"{link}: a link to a folder around it ({link.readlink()}); remove it")
        found += [here / name for name in files]
    return sorted(found)


def architecture(directory: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a denoiser folder, as its config.json says."""
    return {key: tuple(value.shape) for key, value in untrained_denoiser(directory).state_dict().items()}


def verify_denoiser(directory: Path) -> None:
    """Keys and shapes are those of the architecture in config.json, every value is finite."""
    expected, file = architecture(directory), weights_file(directory)
    with Tensors(file) as tensors:
        check_same_layout(tensors.shapes(), expected, str(file), "its config.json")
        for key in expected:
            if not bool(torch.isfinite(tensors.get_tensor(key)).all()):
                raise InputError(f"{file}: '{key}' holds NaN or infinite values; the checkpoint is broken")


def weights_file(directory: Path) -> Path:
    """The safetensors file of a denoiser folder, or the index of its shards."""
    for name in (f"{WEIGHTS}{INDEX}", WEIGHTS):
        if (directory / name).is_file():
            return directory / name
    if directory.is_dir():
        refuse_pickles(directory)
    raise InputError(f"{directory / WEIGHTS}: no such file; a denoiser folder holds config.json and {WEIGHTS}")


def denoiser_config(directory: Path) -> dict[str, Any]:
    """The config.json of a denoiser folder; in the hash of unfinished work it says what the weights compute."""
    return read_json(directory / "config.json", CLASS)


def build_denoiser(config: Mapping[str, Any]) -> nn.Module:
    """An untrained denoiser of a config.json (`_class_name` tells which class of diffusers)."""
    import importlib

    name = config.get("_class_name", "UNet2DModel")
    if name not in DENOISERS:
        raise InputError(f"denoiser {name} is unknown; known are {', '.join(DENOISERS)}")
    # The module, not `diffusers.<name>`: a start-up two seconds shorter, in each of a dozen stages.
    cls = getattr(importlib.import_module(f"diffusers.models.unets.{DENOISERS[name]}"), name)
    return cls.from_config(dict(config))


def untrained_denoiser(directory: Path) -> nn.Module:
    """The denoiser of a folder's config.json on the device meta: keys and shapes, without memory."""
    with torch.device("meta"):
        return _built(directory)


def _built(directory: Path) -> nn.Module:
    """The untrained denoiser of a folder."""
    config = denoiser_config(directory)
    with blamed_on(directory / "config.json", "no denoiser can be built from it"):
        return build_denoiser(config)


def load_denoiser(directory: Path) -> nn.Module:
    """A denoiser in eval mode on the CPU; keys and shapes must match. Unfolded projections are put back in place."""
    from deme_core.projection import insert_projections, projection_keys

    model = _built(directory)
    state_dict = read_tensors(weights_file(directory))
    if projection_keys(state_dict):  # those that were folded away stand at the identity
        insert_projections(model, "released")
        fresh = model.state_dict()
        state_dict = {key: fresh[key] for key in projection_keys(fresh)} | state_dict
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    check_same_layout({k: tuple(v.shape) for k, v in state_dict.items()}, expected, str(directory), "its config.json")
    model.load_state_dict(state_dict)
    return model.eval()


def save_denoiser(
    directory: Path, config_of: Path, state_dict: Mapping[str, torch.Tensor], recipe: Mapping[str, Any]
) -> None:
    """A denoiser folder: the config.json of the folder `config_of`, the weights, their recipe in the metadata."""
    directory.mkdir(parents=True, exist_ok=True)
    if config_of != directory:
        shutil.copyfile(config_of / "config.json", directory / "config.json")
    write_tensors(directory / WEIGHTS, state_dict, recipe)


def copy_pipeline(source: Path, target: Path, *, weights: bool) -> None:
    """Copy model_index.json and the components that it names, byte for byte, and nothing that lies beside them.

    Without `weights`, the denoiser's folder gets its config.json alone: the caller writes the weights.
    """
    for file in pipeline_files(source, weights=weights):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def pipeline_files(source: Path, *, weights: bool) -> Iterator[Path]:
    """The files that `copy_pipeline` copies.

    Raises:
        InputError: a link leads nowhere.
    """
    denoiser = denoiser_dir(source)
    parts = {"model_index.json", *(name for name, entry in read_json(source / "model_index.json").items() if entry)}
    for file in files_below(source):
        inside = file.relative_to(source)
        left_out = not weights and file.parent == denoiser and file.name != "config.json"
        if left_out or inside.parts[0] not in parts or _hidden(inside):
            continue
        if file.is_symlink() and not file.exists():
            raise InputError(f"{file}: a link to nothing ({file.readlink()}); fetch the pipeline again")
        yield file


def load_noise_schedule(pipeline: Path) -> Any:
    """The training noise schedule as a DDPMScheduler (β, T, prediction type) of the pipeline's own config."""
    return read_noise_schedule(pipeline / SCHEDULE)


def read_noise_schedule(file: Path) -> Any:
    """The DDPMScheduler of a scheduler_config.json."""
    config = _read_schedule(file)
    with blamed_on(file, "no noise schedule can be made of it"):
        return noise_schedule(config)


def noise_schedule(config: Mapping[str, Any]) -> Any:
    """The DDPMScheduler of the content of a scheduler_config.json."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler.from_config(dict(config))


def schedule_identity(schedule: Any) -> dict[str, Any]:
    """The config of a noise schedule, for the hash of unfinished work.

    Left out is what diffusers notes for itself: the names of defaults, as a list whose order changes between processes.
    """
    return {key: value for key, value in schedule.config.items() if not key.startswith("_")}


def train_timesteps(pipeline: Path) -> int:
    """T, the number of training timesteps."""
    return _read_schedule(pipeline / SCHEDULE).get("num_train_timesteps") or 1000


def _read_schedule(file: Path) -> dict[str, Any]:
    config = read_json(file, {"num_train_timesteps": int | None})
    if (T := config.get("num_train_timesteps")) is not None and T < 1:
        raise InputError(f"{file}: num_train_timesteps {T} must be at least 1; write or fetch it again")
    return config


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
