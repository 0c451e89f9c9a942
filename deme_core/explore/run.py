"""The run of a repository as a source: params.yaml says where its models and searches lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deme_core.dag import FURTHER, JOINT, RANGE, SELF
from deme_core.errors import InputError
from deme_core.explore.directions import Direction, Directions
from deme_core.explore.searches import Search
from deme_core.explore.source import Source
from deme_core.merging.away import AwayParams
from deme_core.merging.methods import eq_8
from deme_core.merging.task_vectors import vector_files
from deme_core.params import section
from deme_core.prompts.saved import read_prompts
from deme_core.sampling.settings import SampleParams, SamplerParams
from deme_core.search.kinds import searched
from deme_core.search.settings import SearchParams
from deme_core.search.spaces import RANGES, Each, Space, Steps
from deme_core.stage import run_params
from deme_core.tensors import read_recipe
from deme_core.timesteps import span_name

BASE = Path("models/pretrained")


def of_run(params: dict[str, Any]) -> Source:
    """The run in this folder.

    Args:
        params: params.yaml.

    Raises:
        InputError: it has not made its models yet.
    """
    top, search = run_params(params), section(params, "merge_search", SearchParams)
    folders = {RANGE: Path(f"models/n{top.N}/vectors")}
    folders |= {name: Path(row.vectors) for name, row in FURTHER.items() if name in top.directions}
    for folder in (BASE, *folders.values()):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such directory; `dvc repro` makes it, or name other models with --base")
    files = {name: tuple(vector_files(folder)) for name, folder in folders.items()}
    away = section(params, "away", AwayParams).w if SELF in files else None
    directions = Directions(tuple(direction(name, files, search, away) for name in files))
    asked = section(params, "sample", SampleParams).prompts
    return Source(
        title=top.name, base=BASE, directions=directions, sampler=section(params, "sampler", SamplerParams),
        prompts=read_prompts(Path("data/prompts"), asked).texts if asked else (),
        searches=tuple(searches(files, search, Path(f"search/n{top.N}"), joint=JOINT in top.directions)), away=away,
        merge=eq_8(params),
    )  # fmt: skip


def direction(name: str, files: Mapping[str, tuple[Path, ...]], search: SearchParams, away: float | None) -> Direction:
    """The experts with a slider each, or a further direction with one, between the bounds of their searches.

    Args:
        away: how far back that of own samples has to reach, at least; None: the run has none.
    """
    if name == RANGE:
        return Direction(name, files[name], tuple(map(expert_label, files[name])), search.bounds)
    low, high = line(name, files, search).bounds[0]
    if name == SELF and away is not None:
        low = min(low, -away)
    return Direction(name, files[name], (name,), (low, high))


def expert_label(file: Path) -> str:
    """The range of an expert's training, where its task vector tells it."""
    recipe, i = read_recipe(file), int(file.stem)
    bounds = recipe.get("bounds") or []
    return f"{i}: t in {span_name((bounds[i - 1], bounds[i]))}" if i < len(bounds) else f"{i}"


def line(name: str, files: Mapping[str, tuple[Path, ...]], search: SearchParams) -> Steps:
    """The one step of a further direction."""
    sizes = [len(files[RANGE]), len(files[name])]
    both = Steps.of([RANGES, FURTHER[name].kind], sizes, search)
    moving, zero = tuple(range(sizes[1])), (0.0,)
    return Steps(zero * sizes[1], (moving,), (sizes[1],), both.bounds[1:], [zero, both.anchors[2][1:]], search.bounds)


def searches(
    files: Mapping[str, tuple[Path, ...]], search: SearchParams, folder: Path, *, joint: bool
) -> Sequence[Search]:
    """Those that have run, with what each moved."""
    further = [name for name in files if name != RANGE]
    found: list[tuple[str, tuple[str, ...], Space]] = [("merged", (RANGE,), Each.of(len(files[RANGE]), search))]
    found += [(FURTHER[name].model, (name,), line(name, files, search)) for name in further]
    if joint:
        kinds, sizes = [RANGES, *(FURTHER[name].kind for name in further)], [len(vectors) for vectors in files.values()]
        space = searched(kinds, search, sizes)[1]
        assert space is not None, "several directions have a space of steps"
        found.append((JOINT, tuple(files), space))
    return [Search(*row, folder / row[0]) for row in found if (folder / row[0] / "result.json").is_file()]
