"""Whether the stage `validate` would refuse a run, told while some of what the run needs is still missing."""

import io
import json
from collections.abc import Collection
from contextlib import redirect_stderr
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deme_core.dag import dag
from deme_core.errors import InputError
from deme_core.inputs import UNCHANGING, inputs
from deme_core.metrics.features import read_config
from deme_core.params import section
from deme_core.paths import at_home
from deme_core.preflight.validation import SECTIONS, check_params
from deme_core.prompts.table import prompt_params
from deme_core.stage import run_params

NAMED = (
    ("data", "path"), ("reference", "statistics"), ("pretrain_load", "source"), ("clip_score", "model"),
    ("search_clip_score", "model"),
)  # fmt: skip
"""Section and key of what `validate` wants on this machine, beside extractors and prompt sets."""


def refuse(params: dict[str, Any], missing: Collection[str], *, misfit: bool) -> None:
    """Refuse what `validate` refuses, but for what the report tells anyway.

    Args:
        missing: names of artefacts that are not there.
        misfit: whether the model does not fit the data.

    Raises:
        InputError: that of `check_params`.
    """
    with redirect_stderr(io.StringIO()):  # warnings are in the report, too
        try:
            check_params(params)
        except InputError:
            if not (missing or misfit):
                raise
            with TemporaryDirectory() as folder:
                check_params(_with_stand_ins(params, missing, Path(folder), misfit=misfit), shaped=not misfit)


def _with_stand_ins(params: dict[str, Any], missing: Collection[str], folder: Path, *, misfit: bool) -> dict[str, Any]:
    """These params with what nobody looks at in the place of what is missing, or of a model that does not fit."""
    for name, cls in SECTIONS.items():
        section(params, name, cls)
    given = deepcopy(at_home(params))
    for name, key in NAMED:
        if given[name].get(key) in missing:
            given[name][key] = UNCHANGING
    if misfit:
        given["pretrain_load"] |= {"source": UNCHANGING, "train": None}
    if not _readable(given["reference"]["extractor"]):
        (folder / "config.json").write_text(json.dumps({"_class_name": "Pixels", "side": 1}), encoding="utf-8")
        given["reference"]["extractor"] = str(folder)
    search = given["merge_search"]
    search["extractors"] = [name for name in search.get("extractors") or () if _readable(name)]
    sets = list((given.get("prompts") or {}).values())
    for prompt_set in sets:
        prompt_set |= {key: UNCHANGING for key in ("path", "reference") if prompt_set.get(key) in missing}
    if sets:
        top, figures = run_params(given), given.get("analyses", ())
        references = {name: prompt_set.reference for name, prompt_set in prompt_params(given).items()}
        given["dag"] = dag(top.N, top.baselines, references, top.random_draws, top.directions, figures)
    return given | {"inputs": inputs(given)}


def _readable(extractor: str) -> bool:
    try:
        read_config(Path(extractor))
    except InputError:
        return False
    return True
