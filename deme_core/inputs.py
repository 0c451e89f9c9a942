"""The files and folders that params name, for DVC to look at: the derived section `inputs` of params.yaml.

A dep must exist. In the place of what is no file of this machine (a hub id, null, `train`) stands the mark that the
stage validate leaves, which is always there and always the same.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deme_core.errors import InputError
from deme_core.paths import at_home, fixed

UNCHANGING = "data/params.checked"
PROMPTS = "data/prompts"  # what the stages prompts write
OF_THE_RUN = Path("data/reference")  # features of the run's own images
READ = (
    "data", "reference", "pretrain_load", "early", "clip_score", "search_clip_score", "merge_search", "sample",
    "prompts", "judges",
)  # fmt: skip
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+){0,2}", re.ASCII)
OF_A_PIPELINE = ("model_index.json", "scheduler/scheduler_config.json", "scheduler_config.json")


def inputs(params: Mapping[str, Any], root: Path = Path()) -> dict[str, Any]:
    """The section `inputs`; `root` is the folder that relative paths start from.

    Returns:
        data: what the stage data reads.
        extractor: the features of all images.
        judges: their group.
        statistics: what reference reads, beside the data.
        base: what pretrain_load reads.
        early: what direction@early reads.
        validate: the same, of which validate reads the configs; else its own script, since it makes the mark.
        prompts: every prompt set -> its `path`, and the `reference` that prompts opens: none that the run makes.
        clip: the CLIP model that prompts and evaluate_prompts open.
        search_clip, search_prompts, search_extractors: the CLIP model of merge_search, its texts beside captions, and
            its extractors beside that of `reference`.
        sample_prompts: the texts of sample.
    """
    params = {name: at_home(params[name]) for name in READ if name in params}  # DVC knows no ~
    load, search = params["pretrain_load"]["source"], params["merge_search"]
    base = UNCHANGING if load == "train" else _pipeline(_model(load, root), root)
    sets, sample = search.get("prompts") or (), params["sample"].get("prompts")
    extractors = search.get("extractors") or ()
    return {
        "data": _data(params["data"], root),
        "extractor": params["reference"]["extractor"],
        "judges": params["judges"]["folder"],
        "statistics": params["reference"].get("statistics") or UNCHANGING,
        "base": base,
        "early": _pipeline(early, root) if (early := (params.get("early") or {}).get("source")) else UNCHANGING,
        "validate": "stages/validate.py" if base == UNCHANGING else base,
        "prompts": {name: _prompts(prompt_set) for name, prompt_set in (params.get("prompts") or {}).items()},
        "clip": _clip(params["clip_score"], root),
        "search_clip": _clip(params["search_clip_score"], root) if scores_texts(params) else UNCHANGING,
        "search_prompts": _one([f"{PROMPTS}/{name}.json" for name in sets], PROMPTS) if sets else UNCHANGING,
        "search_extractors": _one(extractors, str(Path(extractors[0]).parent)) if extractors else UNCHANGING,
        "sample_prompts": f"{PROMPTS}/{sample}.json" if sample else UNCHANGING,
    }


def scores_texts(params: Mapping[str, Any]) -> bool:
    """Whether the search's objective holds a CLIP score."""
    return "clip_score" in params["merge_search"]["objective"]


def check_inputs(params: Mapping[str, Any]) -> None:
    """Refuse a section that belongs to other params, or to other folders: DVC would look at the wrong files."""
    section, now = params.get("inputs") or {}, inputs(params)
    for key in sorted(section.keys() | now.keys()):
        if section.get(key) != now.get(key):
            raise InputError(
                f"params: inputs.{key} = {section.get(key)!r}: what the params name is {now.get(key)!r}; it is derived:"
                " `dvc exp run` and `make params` compose params.yaml anew"
            )


def check_paths(params: Mapping[str, Any]) -> None:
    """Refuse a param that names a file or folder where nothing lies."""
    found = inputs(params)
    named = [
        ("data.path", params["data"].get("path"), found["data"]),
        ("reference.extractor", params["reference"]["extractor"], found["extractor"]),
        ("reference.statistics", params["reference"].get("statistics"), found["statistics"]),
        ("pretrain_load.source", params["pretrain_load"]["source"], found["base"]),
        ("clip_score.model", params["clip_score"]["model"], found["clip"] if found["prompts"] else UNCHANGING),
        ("search_clip_score.model", params["search_clip_score"]["model"], found["search_clip"]),
    ]
    for name, prompt_set in (params.get("prompts") or {}).items():
        read = found["prompts"][name]
        made = prompt_set["source"] == "heldout"  # by the stage data
        named += [(f"prompts.{name}.path", prompt_set.get("path"), UNCHANGING if made else read["path"])]
        named += [(f"prompts.{name}.reference", prompt_set.get("reference"), read["reference"])]
    for key, value, path in named:
        if path != UNCHANGING and not Path(path).exists():
            raise InputError(f"params: {key} = {value!r}: {no_such(path)}")


def no_such(path: str) -> str:
    """What a message says of a path where nothing lies, with the remedy."""
    return (
        f"no such file or folder in {Path.cwd()}; `dvc exp run --queue` and `--temp` work in a copy of what git tracks,"
        " where all else needs an absolute path"
    )


def _data(data: Mapping[str, Any], root: Path) -> str:
    if (path := data.get("path")) is None:
        return UNCHANGING
    if data["source"] == "hub":  # whose data sets may be without an owner
        return UNCHANGING if is_hub_id(path, root) else path
    named = Path(path)
    return str(named if (root / named).exists() else fixed(named))  # of a pattern the folder


def _one(paths: Sequence[str], folder: str) -> str:
    """A template of dvc.yaml gives one path: of several the folder of all."""
    return paths[0] if len(paths) == 1 else folder


def is_hub_id(name: str, root: Path = Path()) -> bool:
    """Whether a name is one of the hub, and of nothing that lies here. All else is a path, and never asked of it."""
    return bool(HUB_ID.fullmatch(name)) and not name.startswith((".", "zoo/")) and not (root / name).exists()


def is_hub_model(name: str, root: Path = Path()) -> bool:
    """The same of a model, which has an owner there."""
    return "/" in name and is_hub_id(name, root)


def _model(name: str, root: Path) -> str:
    return UNCHANGING if is_hub_model(name, root) else name


def _clip(score: Mapping[str, Any], root: Path) -> str:
    """Of a section `clip_score`."""
    return UNCHANGING if score.get("pretrained", True) else _model(score["model"], root)


def _pipeline(folder: str, root: Path) -> str:
    """The folder that is read with a denoiser's: that of its pipeline, where it lies in one."""
    place = root / folder
    beside = any((place.parent / file).is_file() and not (place / file).is_file() for file in OF_A_PIPELINE)
    return str(Path(folder).parent) if beside else folder


def _prompts(prompt_set: Mapping[str, Any]) -> dict[str, str]:
    reference = prompt_set.get("reference") or UNCHANGING
    of_the_run = OF_THE_RUN in Path(reference).parents
    return {
        "path": str(Path(prompt_set["path"])) if prompt_set.get("path") else UNCHANGING,
        "reference": UNCHANGING if of_the_run else reference,
    }
