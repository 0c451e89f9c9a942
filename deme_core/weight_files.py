"""Which file of a pipeline's part holds its weights, under the names that diffusers and transformers give it."""

from pathlib import Path

from deme_core.errors import InputError
from deme_core.tensor_files import INDEX, shards

STEMS = {"diffusion_pytorch_model": "diffusion_pytorch_model", "pytorch_model": "model"}  # of pickles -> of safetensors
VARIANTS = ("", ".fp16")


def weight_file(folder: Path) -> Path | None:
    """The weights in a folder, or the index of their shards; None where it holds none.

    Full precision comes before the variant fp16, safetensors before pickles.
    """
    for variant in VARIANTS:
        for ending, stems in ((".safetensors", STEMS.values()), (".bin", STEMS.keys())):
            for stem in stems:
                for name in (f"{stem}{ending}.index{variant}.json", f"{stem}{variant}{ending}"):
                    if (folder / name).is_file():
                        return folder / name
    return None


def is_pickled(file: Path) -> bool:
    """Whether what `weight_file` found is of pickles."""
    return ".bin" in file.suffixes


def is_variant(file: Path) -> bool:
    """Whether what `weight_file` found is of the variant fp16."""
    return VARIANTS[1] in file.suffixes


def plain_name(file: Path) -> str:
    """What `weight_file` found is called as safetensors without a variant; pickles become one file."""
    stem = file.name.split(".")[0]
    sharded = file.suffix == ".json" and not is_pickled(file)
    return f"{STEMS.get(stem, stem)}.safetensors{INDEX if sharded else ''}"


def files_of(file: Path) -> list[Path]:
    """The files behind what `weight_file` found: itself, or the shards that it names.

    Raises:
        InputError: one of them is missing.
    """
    found = shards(file)
    for shard in found:
        if not shard.is_file():
            raise InputError(f"{shard}: no such file, and {file.name} names it; fetch all shards")
    return found
