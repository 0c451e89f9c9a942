"""merge.json read back: to merge the same again, and to check that files are still those that it names."""

from pathlib import Path
from typing import Any

from deme_core.checkpoints import denoiser_of, weights_file
from deme_core.errors import InputError
from deme_core.json_files import check_kinds, read_json
from deme_core.merging.methods import METHODS, MergeParams
from deme_core.params import section
from deme_core.tensors import read_recipe, weights_hash

KINDS = {
    "weights": list, "dtype": str | None, "max_shard_size": int | None, "base_sha256": str, "output_sha256": str,
    "experts_sha256": list | None,
}  # fmt: skip


def read_merge(path: Path) -> dict[str, Any]:
    """A merge.json that `python -m deme_core.merging` wrote."""
    recipe = read_json(path, {"method": str})
    if recipe["method"] not in METHODS:
        raise InputError(f"{path} is no merge.json: it names none of the methods {', '.join(METHODS)}")
    keys = {"weights", "dtype", "max_shard_size", "base_sha256", "output_sha256", *METHODS[recipe["method"]].params}
    if lacking := sorted(keys - set(recipe)):
        raise InputError(f"{path} is no merge.json of this version: it lacks {', '.join(lacking)}")
    check_kinds(recipe, KINDS, path)
    if not all(isinstance(w, int | float) for w in recipe["weights"]):
        raise InputError(f"{path}: weights {recipe['weights']} must be numbers; take the merge.json as it was written")
    return recipe


def merge_params(recipe: dict[str, Any]) -> MergeParams:
    """The method of a recipe, with its params."""
    named = {key: recipe[key] for key in ("method", "dtype", *METHODS[recipe["method"]].params)}
    return section({"merge": vars(MergeParams()) | named}, "merge", MergeParams)


def check_hashes(path: Path, recipe: dict[str, Any]) -> None:
    """Refuse a merge whose inputs, or whose result, are not those of the recipe in the file `path`."""
    expected = read_merge(path)
    for key in ("base_sha256", "experts_sha256", "output_sha256"):
        if recipe[key] != expected.get(key):
            raise InputError(
                f"{path}: {key} is {expected.get(key)}, but these files give {recipe[key]}; nothing written"
            )


def verify(out: Path, base: Path | None, experts: list[Path]) -> None:
    """Hash a merged model, and the inputs that are given, again and compare with its merge.json; a line each.

    Raises:
        InputError: something differs, or the recipe names other numbers of inputs.
    """
    recipe = read_merge(out / "merge.json")
    weights = weights_file(denoiser_of(out))
    pairs = [("output", weights, recipe["output_sha256"])]
    if base:
        pairs.append(("base", weights_file(denoiser_of(base)), recipe["base_sha256"]))
    if experts:
        hashes = recipe.get("experts_sha256", [])
        if len(hashes) != len(experts):
            raise InputError(f"{out / 'merge.json'} names {len(hashes)} experts, {len(experts)} are given")
        pairs += [("expert", weights_file(denoiser_of(one)), sha) for one, sha in zip(experts, hashes, strict=True)]
    wrong = [] if read_recipe(weights) == recipe else [f"{weights}: its metadata are not merge.json"]
    for what, file, expected in pairs:
        same = weights_hash(file) == expected
        print(f"{'same' if same else 'DIFFERS':8}{what:8}{file}")
        wrong += [] if same else [f"{file}: not the {what} that merge.json names"]
    if wrong:
        raise InputError("; ".join(wrong))
