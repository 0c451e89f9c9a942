"""Whether an expert is the base's model with other weights; keys and shapes do not say what a network computes."""

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from deme_core.checkpoints import CLASS, denoiser_of
from deme_core.components import read_index
from deme_core.errors import InputError
from deme_core.hub_layouts import key_of_today
from deme_core.json_files import read_json
from deme_core.naming import brief
from deme_core.tensor_files import Tensors, piece_bounds
from deme_core.weight_files import is_pickled, weight_file

# Keys of a config that change no value that the model computes: training, first weights, the precision on a GPU; and
# the width of a projection that is there as a tensor, or not at all.
INERT = {"dropout", "initializer", "upcast", "projection_dim"}
SCHEDULE = (
    "prediction_type", "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas",
    "rescale_betas_zero_snr",
)  # fmt: skip
TOKENIZER = ("model_max_length", "do_lower_case", "bos_token", "eos_token", "unk_token", "pad_token")
VOCABULARY = ("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "added_tokens.json")
AFTERWARDS = {"safety_checker", "feature_extractor"}  # look at finished images
LONGEST = 60  # characters of a value in a message

Difference = tuple[str, Any, Any]
"""What differs, the expert's value, the base's."""


def check_same_model(base: Path, experts: Sequence[Path], *, allow: bool) -> list[str]:
    """Refuse experts that are another model than the base: a merge takes all but a denoiser's weights from the base.

    Args:
        base, experts: pipelines or denoiser folders.
        allow: warn instead.

    Returns:
        What was warned of, expert by expert.
    """
    passed_over = []
    for number, expert in enumerate(experts, 1):
        if not (listed := said_differences(base, expert)):
            continue
        text = f"{expert} is another model than {base}: {listed}"
        if not allow:
            raise InputError(f"{text}. Merge experts of this base, or take what is the base's with --allow-mismatch")
        print(f"warning: {text}. Merged all the same, with what is the base's", file=sys.stderr)
        passed_over.append(f"expert {number}: {listed}")
    return passed_over


def said_differences(base: Path, expert: Path) -> str:
    """The `differences` on one line; empty where there is none."""
    found = differences(base, expert)
    return "; ".join(f"{what} is {_short(theirs)}, the base's {_short(ours)}" for what, theirs, ours in found)


def check_whole(base: Path) -> None:
    """Refuse a pipeline that lacks a part which it names: the merged one could not be loaded."""
    if (index := base / "model_index.json").is_file():
        for name in read_index(base):
            if not (base / name).is_dir():
                raise InputError(f"{base / name}: no such directory, and {index} names it; fetch the whole pipeline")


def differences(base: Path, expert: Path) -> Iterator[Difference]:
    """What a merge of the two would pass over: of the denoiser, of the noise schedule, of whole pipelines' other parts.

    A schedule counts for a denoiser's folder inside a pipeline, too: it is what the denoiser was trained for.
    """
    yield from _config("config.json", *(denoiser_of(folder) / "config.json" for folder in (expert, base)))
    schedules = [_schedule(folder) for folder in (expert, base)]
    if all(schedules):
        theirs, ours = (_functional(read_json(file, CLASS)) for file in schedules if file)
        yield from _values("scheduler", theirs, ours, SCHEDULE)
    if all((folder / "model_index.json").is_file() for folder in (expert, base)):
        parts = read_index(base).keys() & read_index(expert).keys()
        for name in sorted(parts - AFTERWARDS - {"scheduler", denoiser_of(base).name}):
            yield from _part(name, expert / name, base / name)


def _schedule(folder: Path) -> Path | None:
    """The scheduler's config of a pipeline, of a flat repository, or of the pipeline around a denoiser's folder."""
    places = [folder / "scheduler", folder]
    if ((parent := folder.resolve().parent) / "model_index.json").is_file():
        places.append(parent / "scheduler")
    return next((file for place in places if (file := place / "scheduler_config.json").is_file()), None)


def _part(name: str, expert: Path, base: Path) -> Iterator[Difference]:
    """A frozen part: its weights, its config, or a tokenizer's files."""
    if (base / "config.json").is_file():
        yield from _config(f"{name}/config.json", expert / "config.json", base / "config.json")
        yield from _weights(name, expert, base)
        return
    if all((folder / "tokenizer_config.json").is_file() for folder in (expert, base)):
        theirs, ours = (
            {key: _content(value) for key, value in read_json(folder / "tokenizer_config.json").items()}
            for folder in (expert, base)
        )
        yield from _values(name, theirs, ours, [key for key in TOKENIZER if key in theirs and key in ours])
    for file in VOCABULARY:
        if all((folder / file).is_file() for folder in (expert, base)):
            one, other = ((folder / file).read_bytes() for folder in (expert, base))
            if _parsed(file, one) != _parsed(file, other):
                yield f"{name}/{file}", f"another ({len(one)} bytes)", f"of {len(other)} bytes"


def _content(token: Any) -> Any:
    """A special token's text: newer tokenizers save it within an object."""
    return token.get("content") if isinstance(token, dict) else token


def _parsed(name: str, data: bytes) -> Any:
    """JSON as what it says, however it is laid out; else the bytes."""
    try:
        return json.loads(data) if name.endswith(".json") else data
    except ValueError:
        return data


def _config(what: str, expert: Path, base: Path) -> Iterator[Difference]:
    ours = read_json(base, CLASS)
    if not expert.is_file():
        yield what, "missing", "there"
        return
    theirs = read_json(expert, CLASS)
    if theirs != ours:
        theirs, ours = _functional(theirs), _functional(ours)
        keys = theirs.keys() & ours.keys() if theirs["_class_name"] == ours["_class_name"] else ["_class_name"]
        yield from _values(what, theirs, ours, sorted(keys))


def _functional(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config its class reads, with the class's defaults: writers of other versions leave other keys out."""
    import diffusers  # only where configs differ: this takes seconds
    import transformers

    name = config.get("_class_name") or next(iter(config.get("architectures") or ()), "UNet2DModel")
    cls = getattr(diffusers, name, None) or getattr(getattr(transformers, name, None), "config_class", None)
    if not isinstance(cls, type):  # a class of someone's own: as it stands
        found = {key: value for key, value in config.items() if not key.startswith("_")}
    else:
        shared = inspect.signature(transformers.PreTrainedConfig).parameters
        read = {key: one.default for key, one in inspect.signature(cls).parameters.items() if key not in shared}
        found = {key: config.get(key, default) for key, default in read.items()}
    return {key: value for key, value in found.items() if not any(word in key for word in INERT)} | {
        "_class_name": name
    }


def _values(what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], keys: Sequence[str]) -> Iterator[Difference]:
    for key in keys:
        if not _same(theirs.get(key), ours.get(key)):
            yield f"{what} {key}", theirs.get(key), ours.get(key)


def _same(one: Any, other: Any) -> bool:
    """Equal, or as good as: null and false, a number and a list of it for every block."""
    one, other = (list(value) if isinstance(value, tuple) else value for value in (one, other))
    if isinstance(one, list) and other and not isinstance(other, list | str):
        return all(value == other for value in one)
    if isinstance(other, list) and one and not isinstance(one, list | str):
        return all(value == one for value in other)
    return bool(one == other) or (one in (None, False) and other in (None, False))


def _weights(name: str, expert: Path, base: Path) -> Iterator[Difference]:
    """The first value that differs; a file in half precision is the same as the one that it was rounded from."""
    files = [_weights_file(folder) for folder in (expert, base)]
    if not all(files):
        if any(files):
            yield f"{name}'s safetensors file", _there(files[0]), _there(files[1])
        return
    with Tensors(files[0]) as theirs, Tensors(files[1]) as ours:  # type: ignore[arg-type]
        names = [
            {_today(key): key for key, (dtype, _) in x.layout.items() if dtype.is_floating_point}
            for x in (theirs, ours)
        ]
        for key in sorted(names[0].keys() ^ names[1].keys()):
            yield f"{name} '{key}'", _there(key in names[0]), _there(key in names[1])
            return
        for key in names[0]:
            one, other = (keys[key] for keys in names)
            if theirs.numel(one) != ours.numel(other):
                yield f"{name} '{key}'", list(theirs.layout[one][1]), list(ours.layout[other][1])
                return
            coarser = max(theirs.layout[one][0], ours.layout[other][0], key=lambda dtype: torch.finfo(dtype).eps)
            for start, stop in piece_bounds(ours.numel(other)):
                a, b = theirs.flat(one, start, stop).to(coarser), ours.flat(other, start, stop).to(coarser)
                if not torch.equal(a, b):
                    k = int(torch.nonzero(a != b)[0])
                    yield f"{name} '{key}' [{start + k}]", float(a[k]), float(b[k])
                    return


def _there(found: object) -> str:
    return "there" if found else "missing"


def _weights_file(folder: Path) -> Path | None:
    """A part's safetensors weights, as they are loaded by default."""
    found = weight_file(folder)
    return None if found is None or is_pickled(found) else found


def _today(key: str) -> str:
    """A key as today's diffusers and transformers write it."""
    return key_of_today(key).removeprefix("text_model.")


def _short(value: Any) -> str:
    text = value if value in ("there", "missing") else json.dumps(value, ensure_ascii=False)
    return brief(text, LONGEST)
