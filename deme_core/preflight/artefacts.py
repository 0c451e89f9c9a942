"""What a run needs from outside the repository: there or missing, how large, and where it comes from.

Nothing here reaches for the network, so that a machine without one gets the same answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from deme_core.data.images import DataParams
from deme_core.data.no_images import NONE
from deme_core.data.sources import SOURCES
from deme_core.errors import InputError
from deme_core.hub_layouts import find_layout
from deme_core.inputs import is_hub_model
from deme_core.json_files import read_json
from deme_core.metrics.clip_score import ClipScoreParams
from deme_core.metrics.features import EXTRACTORS, FeatureParams, read_config
from deme_core.metrics.open_clip_models import CONFIG, TOKENIZER, WEIGHTS, hub_id
from deme_core.metrics.verdict import JudgeParams
from deme_core.params import check, read
from deme_core.paths import matches
from deme_core.prompts.settings import PromptParams
from deme_core.training.scratch import PretrainParams
from deme_core.weight_files import weight_file

EXTRA = "pip install 'deme[real-images]'"


@dataclass(frozen=True)
class Artefact:
    """One thing that must be on this machine before a run."""

    kind: str
    """Of what: model, data, extractor, judge, reference, prompts or package."""
    name: str
    """Its path, hub id or package."""
    path: Path | None
    """Where it lies; None where it is missing."""
    remedy: str
    """Where to put it, or the command that fetches it."""

    @property
    def size(self) -> int | None:
        """Bytes on disk; None where it is missing, or comes with a package."""
        if self.path is None or not self.path.exists():
            return None
        files = [self.path] if self.path.is_file() else [file for file in self.path.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files)


def artefacts(
    data: DataParams, pretrain: PretrainParams, features: FeatureParams,
    prompts: Mapping[str, PromptParams] | None = None, extractors: Sequence[str] = (),
) -> list[Artefact]:  # fmt: skip
    """Everything that these params name; `extractors` are those of the search beside that of `features`."""
    check(data.source in SOURCES, "data.source", data.source, f"known sources are {', '.join(SOURCES)}")
    found = [_model(pretrain), *_data(data)]
    names = () if data.source == NONE else (features.extractor, *extractors)
    found += [one for name in names for one in _extractor(name)]
    found += [
        _file("prompts", prompt_set.path, f"put the file of the set prompts.{name} there, source '{prompt_set.source}'")
        for name, prompt_set in (prompts or {}).items()
        if prompt_set.source != "heldout"  # the captions of the run's own data
    ]
    if features.statistics is not None:
        found.append(_file("reference", features.statistics, "put the npz with mu and sigma there"))
    return found


def model_folder(params: PretrainParams) -> Path | None:
    """The folder of the pretrained model, in any layout; None where it is missing, incomplete or yet to be trained."""
    folder = _model_place(params)
    try:
        if folder is None or weight_file(find_layout(folder).denoiser) is None:
            return None
    except InputError:
        return None
    return folder


def _model_place(params: PretrainParams) -> Path | None:
    if Path(params.source).is_dir():
        return Path(params.source)
    if not is_hub_model(params.source):
        return None
    owner, name, *inside = params.source.split("/")
    snapshot = _cached(f"{owner}/{name}", params.revision)
    return snapshot and snapshot.joinpath(*inside)


def _model(params: PretrainParams) -> Artefact:
    source = params.source
    if source == "train":
        return Artefact("model", "train", Path(), "trained by the stage pretrain_load")
    remedy = "put the pipeline there"
    if (recipe := Path(source) / "recipe.yaml").is_file():
        script = "train_sd.py" if "denoiser" in read(recipe) else "train_ddpm.py"
        remedy = f"python zoo/{script} {source}"
    elif place := _model_place(params):
        try:
            find_layout(place)
        except InputError as error:  # it is there, and broken
            remedy = str(error)
    elif is_hub_model(source):
        remedy += f", or {_download('/'.join(source.split('/')[:2]), params.revision)}"
    return Artefact("model", source, model_folder(params), remedy)


def _file(kind: str, name: str | None, remedy: str) -> Artefact:
    return Artefact(kind, str(name), next(iter(matches(name)), None), remedy)


def _package(name: str, module: str, remedy: str = EXTRA) -> Artefact:
    return Artefact("package", name, Path() if find_spec(module) else None, remedy)


def _data(params: DataParams) -> list[Artefact]:
    source = SOURCES[params.source]
    if source.comes is not None:
        images = Artefact("data", source.comes, Path(), "nothing is to be done")
    elif source.put is not None:
        images = _file("data", params.path, source.put)
    else:
        images = _of_hub(params)
    return [images, *(_package(*package) for package in source.packages)]


def _published(kind: str, source: str, revision: str | None, files: Callable[[Path], Sequence[str]]) -> Artefact:
    """A published model of these files: a folder, or a hub id; half fetched it is missing."""
    if Path(source).is_dir() or not is_hub_model(source):
        folder, remedy = next(iter(matches(source)), None), "put the folder of the model there"
    else:
        folder, remedy = _cached(source, revision), _download(source, revision)
    if folder and (lacking := [name for name in files(folder) if not (folder / name).is_file()]):
        return Artefact(kind, source, None, f"{folder} lacks {', '.join(lacking)}; {remedy}")
    return Artefact(kind, source, folder, remedy)


def _of_open_clip(folder: Path) -> Sequence[str]:
    """With the tokenizer of a model that does not use open_clip's own."""
    try:
        config = read_json(folder / CONFIG, {"model_cfg": dict}) if (folder / CONFIG).is_file() else {}
    except InputError:  # the loader says what is wrong with it
        config = {}
    text = config.get("model_cfg", {}).get("text_cfg")
    return CONFIG, WEIGHTS, *(TOKENIZER if isinstance(text, dict) and text.get("hf_tokenizer_name") else ())


# The files that each loader of a published extractor reads.
PUBLISHED: dict[str, Callable[[Path], Sequence[str]]] = {
    "CLIP": _of_open_clip,
    "DINOv2": lambda folder: ("config.json", "model.safetensors", "preprocessor_config.json"),
}


def _of_hub(params: DataParams) -> Artefact:
    if params.stream is not None:
        name = f"{params.path}, the first {params.stream:,} images, which the stage data downloads"
        return Artefact("data", name, Path(), "streamed")
    remedy = _download(f"--repo-type dataset {params.path}", params.revision)
    folder, whole = _snapshot(params.path or "", params.revision, "dataset")
    if folder and not (whole and _holds_all(folder)):
        return Artefact("data", str(params.path), None, f"a download into {folder} was cut off; {remedy} goes on")
    return Artefact("data", str(params.path), folder, remedy)


def _extractor(source: str) -> list[Artefact]:
    recipe = Path(source) / "recipe.yaml"
    if recipe.is_file() and not (Path(source) / "config.json").is_file() and "network" in read(recipe):
        return [Artefact("extractor", source, None, f"python zoo/train_features.py {source}")]
    try:
        config = read_config(Path(source))
    except InputError as error:
        return [Artefact("extractor", source, None, str(error))]
    kind, found = EXTRACTORS[config["_class_name"]], []
    if kind.weights is not None:
        file, remedy = (text.format(folder=source, **config) for text in kind.weights)
        found = [_file("extractor", file, remedy)]
    elif (name := config.get("source")) is not None:
        found = [_published("extractor", name, config.get("revision"), PUBLISHED[config["_class_name"]])]
    return [*found, *(_package(*package) for package in kind.packages)]


def judge_artefacts(judges: JudgeParams) -> list[Artefact]:
    """The extractors of the group that this run is measured by, one a folder that holds a config or a recipe."""
    files = [*Path(judges.folder).glob("*/config.json"), *Path(judges.folder).glob("*/recipe.yaml")]
    if not files:
        return [Artefact("judge", judges.folder, None, "name a folder that holds one extractor a folder")]
    found = [one for folder in sorted({file.parent for file in files}) for one in _extractor(str(folder))]
    return [replace(one, kind="judge") if one.kind == "extractor" else one for one in found]


def measure_artefacts(
    sets: Mapping[str, PromptParams], clip: ClipScoreParams, extractor: str, size: int
) -> list[Artefact]:
    """What measures images of prompt sets: the features of their real images, of `size` pixels, and the CLIP model."""
    if not sets:
        return []
    found = []
    for prompt_set in sets.values():
        reference = prompt_set.reference
        if reference is not None and not reference.startswith("data/"):  # those are made by the run
            words = f"--size {size} --extractor {extractor} --out {reference}"
            found.append(_file("reference", reference, f"deme features --images DIR {words}, DIR of its real images"))
    packages = [_package("open_clip_torch", "open_clip"), _package("torchvision", "torchvision")]
    if clip.pretrained is None:
        source = clip.model
    elif packages[0].path is None:
        return [
            *found,
            *packages,
            Artefact("CLIP", f"{clip.model}/{clip.pretrained}", None, "known once open_clip_torch is installed"),
        ]
    else:
        source = hub_id(clip.model, clip.pretrained)
    return [*found, *packages, _published("CLIP", source, clip.revision, _of_open_clip)]


def optimizer_artefacts(optimizer: str) -> list[Artefact]:
    """The package of an optimizer that is not PyTorch's."""
    return [_package("bitsandbytes", "bitsandbytes", "pip install 'deme[gpu]'")] if optimizer == "adamw_8bit" else []


def tracker_artefacts(report_to: str | None) -> list[Artefact]:
    """The package of what curves are sent to."""
    return [_package(report_to, report_to, "pip install 'deme[trackers]'")] if report_to else []


def _download(what: str, revision: str | None) -> str:
    return f"hf download {what}" + (f" --revision {revision}" if revision else "")


def _cached(name: str, revision: str | None) -> Path | None:
    """The snapshot of a model in the hub's cache of this machine, though it may lack files that nothing reads."""
    return _snapshot(name, revision, "model")[0]


def _snapshot(name: str, revision: str | None, repo_type: str) -> tuple[Path | None, bool]:
    """The snapshot of a hub repository in the cache, and whether the cache knows of no file that it lacks."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, repo_type=repo_type, local_files_only=True)), True
    except (LocalEntryNotFoundError, HFValidationError) as error:
        part = getattr(error, "snapshot_path", None)
        return (Path(part) if part else None), False


def _holds_all(snapshot: Path) -> bool:
    """Whether no download into a data set's snapshot was cut off, and there is more in it than its card.

    A file that is on its way lies beside the whole ones, as blobs/ETAG.….incomplete.
    """
    blobs = snapshot.parents[1] / "blobs"
    begun = {file.name.partition(".")[0] for file in blobs.glob("*.incomplete")}
    files = {file.name for file in snapshot.rglob("*") if file.is_file()}
    return all((blobs / etag).exists() for etag in begun) and bool(files - {"README.md", ".gitattributes"})
