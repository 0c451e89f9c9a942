"""Checkpoints as the hub has them -> a diffusers pipeline directory with current keys and safetensors weights.

Read are pipelines; flat repositories with config.json, weights and scheduler_config.json at the root (google/ddpm-*);
and a denoiser's folder inside a pipeline, such as unet_ema, which then takes the place of the pipeline's own.
"""

import json
import pickle
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deme_core.checkpoints import CLASS, PICKLES, WEIGHTS, config_shape, denoiser_dir, read_noise_schedule
from deme_core.components import check_components, read_index
from deme_core.errors import InputError
from deme_core.inputs import is_hub_model
from deme_core.json_files import read_json
from deme_core.naming import said
from deme_core.tensor_files import INDEX, Tensors, shards
from deme_core.tensors import read_tensors, write_tensors
from deme_core.weight_files import files_of, is_pickled, is_variant, plain_name, weight_file

PICKLED = "diffusion_pytorch_model.bin"
HALF = {torch.float16, torch.bfloat16}
# The attention of diffusers < 0.15, under whose names the google/ddpm-* weights are saved.
ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Of a hub repository, for each part until it has weights: pickles only where there is nothing else in full precision,
# then fp16.
FETCHED = (("*.safetensors", False), ("*.bin", False), ("*fp16*.safetensors", True), ("*fp16*.bin", True))


def resolve_source(source: str, revision: str | None) -> Path:
    """A local directory for `source`: itself, or the snapshot of a hub id (the download is announced).

    A folder inside a hub repository is named after its id: 'owner/name/unet_ema'.
    """
    path = Path(source)
    if path.is_dir():
        return path
    owner, *name = source.split("/")
    if not is_hub_model(source):
        raise InputError(
            f"params: pretrain_load.source = {source!r}: no such directory; give a diffusers pipeline directory,"
            " a hub id 'owner/name', or 'train'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    print(f"downloading {source} (revision {revision or 'main'}) from the Hugging Face hub")
    try:

        def fetched(patterns: Sequence[str], *, fp16: bool = False) -> Path:
            ignored = [*([] if fp16 else ["*.fp16.*", "*.fp16-*"]), "*non_ema*", "*pruned*"]
            patterns = ["*.json", "*.txt", *patterns]
            return Path(
                snapshot_download(
                    f"{owner}/{name[0]}", revision=revision, allow_patterns=patterns, ignore_patterns=ignored
                )
            )

        snapshot = fetched([])
        parts = _weighted_parts(snapshot, "/".join(name[1:]))
        for weights, fp16 in FETCHED:
            if lacking := [part for part in parts if _lacks_weights(snapshot / part, fp16=fp16)]:
                snapshot = fetched([f"{part}/{weights}" if part else weights for part in lacking], fp16=fp16)
        return snapshot.joinpath(*name[1:])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{source}: cannot be fetched from the hub ({said(error)}), and {Path.cwd()} has no such directory;"
            " download it elsewhere and set pretrain_load.source to its directory"
        ) from None


def _weighted_parts(snapshot: Path, inside: str) -> list[str]:
    """Folders of a snapshot that hold weights, "" for its root: the denoiser's, and each named part with a config.json.

    Args:
        inside: folder that takes the place of the pipeline's own denoiser; "" for none.
    """
    if not (snapshot / "model_index.json").is_file():
        return [inside]
    denoiser = denoiser_dir(snapshot).name
    found = [name for name in read_index(snapshot) if (snapshot / name / "config.json").is_file()]
    return [inside or (denoiser if denoiser in found else ""), *(name for name in found if name != denoiser)]


def _lacks_weights(folder: Path, *, fp16: bool) -> bool:
    """Whether a folder has no whole weights yet; those of the variant fp16 count where `fp16` asks for it."""
    file = weight_file(folder)
    return file is None or (is_variant(file) and not fp16) or not all(shard.is_file() for shard in shards(file))


@dataclass(frozen=True)
class Layout:
    """Where the parts of a checkpoint lie."""

    root: Path | None
    """Folder of model_index.json, where there is one."""
    denoiser: Path
    """Folder of its config.json and weights."""
    scheduler: Path
    """The file scheduler_config.json."""


def find_layout(source: Path) -> Layout:
    """The parts of a pipeline, of a flat repository, or of a denoiser's folder inside a pipeline."""
    root = next((folder for folder in (source, source.parent) if (folder / "model_index.json").is_file()), None)
    denoiser = source
    if root == source and denoiser_dir(source).is_dir():
        denoiser = denoiser_dir(source)
    if not (denoiser / "config.json").is_file():
        raise InputError(
            f"{denoiser / 'config.json'}: no such file; {source} must be a pipeline (model_index.json and the folders"
            " that it names) or hold a denoiser's config.json and weights"
        )
    if root is not None:
        parts = read_index(root)
        check_components(root, parts, parts[denoiser_dir(root).name])
    config_shape(denoiser / "config.json")
    places = [folder / name for folder in (source, source.parent) for name in ("scheduler", ".")]
    for place in places:
        if (place / "scheduler_config.json").is_file():
            return Layout(root, denoiser, place / "scheduler_config.json")
    raise InputError(f"{source}: no scheduler_config.json, neither in it, nor in scheduler/, nor beside it")


def local_pipeline(source: str) -> Path | None:
    """The folder of a checkpoint on this machine, of the whole pipeline where there is one; None for a hub id."""
    return (find_layout(Path(source)).root or Path(source)) if Path(source).is_dir() else None


def source_schedule(source: Path) -> Any:
    """The noise schedule of a checkpoint in any layout, as a DDPMScheduler."""
    return read_noise_schedule(find_layout(source).scheduler)


def import_pipeline(source: Path, target: Path) -> None:
    """Write the checkpoint as a pipeline directory; what is in order is copied byte for byte.

    Raises:
        InputError: a part is missing, or pickled weights hold more than tensors.
    """
    layout = find_layout(source)
    target.mkdir(parents=True, exist_ok=True)
    name = "unet"
    if layout.root is None:
        index = {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", _class_of(layout.scheduler)],
            "unet": ["diffusers", _class_of(layout.denoiser / "config.json")],
        }
        (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    else:
        name = denoiser_dir(layout.root).name
        shutil.copyfile(layout.root / "model_index.json", target / "model_index.json")
        parts = read_json(target / "model_index.json").keys() - {name}
        for folder in layout.root.iterdir():
            if folder.name in parts and folder.is_dir():
                _import_part(folder, target / folder.name)
    (target / "scheduler").mkdir(exist_ok=True)
    shutil.copyfile(layout.scheduler, target / "scheduler" / "scheduler_config.json")
    import_denoiser(layout.denoiser, target / name)


def import_denoiser(source: Path, target: Path) -> None:
    """A denoiser's folder, its weights as safetensors under diffusers' current keys."""
    target.mkdir()
    shutil.copyfile(source / "config.json", target / "config.json")
    _import_weights(source, target)


def _import_part(source: Path, target: Path) -> None:
    """A part beside the denoiser: byte for byte, but for weights that are there only as pickles or as a variant."""
    file = weight_file(source)
    plain = file is None or file.name == plain_name(file)
    shutil.copytree(source, target, ignore=_left_out if plain else _left_out_with_weights)
    if not plain:
        _import_weights(source, target)


def _import_weights(source: Path, target: Path) -> None:
    """The weights of a folder as safetensors, without a variant in their name, under diffusers' current keys."""
    file = weight_file(source)
    if file is None:
        raise InputError(
            f"{source}: holds neither {WEIGHTS} nor {PICKLED}, whole, in shards or as fp16; fetch the weights, too"
        )
    name, files = plain_name(file), files_of(file)
    layout = {} if is_pickled(file) else {key: dtype for part in files for key, dtype in _dtypes(part).items()}
    if layout and all(key_of_today(key) == key for key in layout):
        for part in {*files, file}:
            shutil.copyfile(part, target / (name if part == file else part.name))
    else:
        read = read_pickle if is_pickled(file) else read_tensors
        state_dict = {key_of_today(key): value for part in files for key, value in read(part).items()}
        layout = {key: value.dtype for key, value in state_dict.items()}
        write_tensors(target / name.removesuffix(INDEX), state_dict, {"converted_from": file.name})
    if half := sorted({str(dtype).removeprefix("torch.") for dtype in layout.values() if dtype in HALF}):
        print(
            f"{file}: weights in {' and '.join(half)}, kept so; networks compute in float32 from them, and merges are"
            " written in their precision, to which most of a small step is lost; merge.dtype=float32 keeps all of it"
        )


def _dtypes(file: Path) -> dict[str, torch.dtype]:
    with Tensors(file) as tensors:
        return {key: dtype for key, (dtype, _) in tensors.layout.items()}


def read_pickle(file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a `.bin` file; nothing in it is executed, and anything but tensors is refused."""
    print(f"{file}: pickled weights; read as tensors alone (weights_only=True) and written as safetensors")
    try:
        state_dict = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(
            f"{file}: no file of plain tensors ({said(error)}); fetch it again, or as safetensors"
        ) from None
    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise InputError(f"{file}: holds more than named tensors; give the weights of the denoiser alone")
    return state_dict


def key_of_today(key: str) -> str:
    """A key of diffusers < 0.15 under the name that it has now."""
    return re.sub(
        rf"(\.attentions\.\d+)\.({'|'.join(ATTENTION)})\.", lambda match: f"{match[1]}.{ATTENTION[match[2]]}.", key
    )


def _class_of(config: Path) -> str | None:
    return read_json(config, CLASS).get("_class_name")


def _left_out(folder: str, names: list[str]) -> list[str]:
    """Hidden files, and pickles beside safetensors, of a component's folder; the rest is copied byte for byte."""
    safe = any(Path(name).suffix == ".safetensors" for name in names)
    return [name for name in names if name.startswith(".") or (safe and Path(name).suffix in PICKLES)]


def _left_out_with_weights(folder: str, names: list[str]) -> list[str]:
    """Hidden files and all weights, of a component's folder."""
    return [name for name in names if name.startswith(".") or {".safetensors", *PICKLES} & {*Path(name).suffixes}]
