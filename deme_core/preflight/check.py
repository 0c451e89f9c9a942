"""The answer of `make check`: what is missing, and what the run will cost, as text."""

from typing import Any

from deme_core.amounts import amount
from deme_core.data.images import DataParams
from deme_core.data.no_images import NONE
from deme_core.data.sources import has_captions, image_shape
from deme_core.errors import InputError
from deme_core.fit import META, check_architecture, check_base, check_images
from deme_core.inputs import is_hub_model, scores_texts
from deme_core.launching.settings import told
from deme_core.metrics.clip_score import ClipScoreParams
from deme_core.metrics.evaluation import EvaluateParams
from deme_core.metrics.features import FeatureParams, feature_count
from deme_core.metrics.intervals import uncovered
from deme_core.metrics.verdict import JudgeParams
from deme_core.params import section
from deme_core.preflight.artefacts import (
    Artefact,
    artefacts,
    judge_artefacts,
    measure_artefacts,
    model_folder,
    optimizer_artefacts,
    tracker_artefacts,
)
from deme_core.preflight.costs import Measured, estimate, measure
from deme_core.preflight.counts import Counts
from deme_core.preflight.public_models import PUBLIC
from deme_core.preflight.refusal import refuse
from deme_core.prompts.settings import PromptParams
from deme_core.prompts.table import load_prompts, prompt_params
from deme_core.sampling.settings import OwnParams, SampleParams, SamplerParams
from deme_core.search.settings import SearchParams
from deme_core.stage import run_params
from deme_core.training.scratch import PretrainParams
from deme_core.training.settings import TrainingParams

GPUS = (24, 80)  # GB
ROOM = 1.1  # for the GPU's own context, and what lies between tensors


def check(params: dict[str, Any]) -> tuple[str, bool]:
    """The report on a whole params.yaml, and whether everything that the run needs is on this machine.

    Raises:
        InputError: the stage validate would refuse these params, whatever is missing.
    """
    top, pretrain = run_params(params), section(params, "pretrain_load", PretrainParams)
    training, sampler = section(params, "finetune_range", TrainingParams), section(params, "sampler", SamplerParams)
    search, sample = section(params, "merge_search", SearchParams), section(params, "sample", SampleParams)
    own_samples = section(params, "own_samples", OwnParams)
    features, prompts = section(params, "reference", FeatureParams), prompt_params(params)
    data = section(params, "data", DataParams)
    found = _found(params, data, prompts)
    misfit = _misfit(pretrain, data)
    refuse(params, {artefact.name for artefact in found if artefact.path is None}, misfit=misfit is not None)
    dag = params["dag"]
    prompted = {name: _prompted(name, prompt_set) for name, prompt_set in prompts.items()}
    if data.source == NONE:  # merge_away alone
        counts = Counts.of_own(training, sampler, own_samples)
        warning, kept = [], (0, 2, own_samples.whole)
    else:
        counts = Counts.of(
            top.N, dag, training, search, sampler, sample, own_samples, sum(n or 0 for n in prompted.values())
        )
        warning = _uncovered(features.extractor, sample.images, section(params, "evaluate", EvaluateParams).blocks)
        kept = (top.N * top.random_draws, len(dag["models"]), counts.sampled // len(dag["sampled"]))
    lines = [
        f"{top.name}: what it needs",
        *map(_artefact_line, found),
        "",
        "What it will cost",
        *_counts(counts),
        *(_prompted_line(name, n) for name, n in prompted.items()),
    ]
    measured, note = (None, " and fits") if misfit else _of_model(pretrain, training, sampler)
    if measured is None:
        lines.append(f"  time, FLOPs, memory, disk: told once the model is there{note}")
    else:
        lines += [*note.splitlines(), *_measured(measured, counts, measured.disk(counts, *kept), training.batch_size)]
    lines += warning
    if places := told():
        lines += ["", "Where it runs, by launch.yaml", *places]
    missing = sum(artefact.path is None for artefact in found)
    lines += ["", f"{missing} of {len(found)} missing" if missing else "everything is there"]
    lines += [f"the model does not fit: {misfit}"] if misfit else []
    return "\n".join(lines), not (missing or misfit)


def _found(params: dict[str, Any], data: DataParams, prompts: dict[str, PromptParams]) -> list[Artefact]:
    """All that the run needs from outside the repository, each once, though several parts need it."""
    search, features = section(params, "merge_search", SearchParams), section(params, "reference", FeatureParams)
    found = artefacts(data, section(params, "pretrain_load", PretrainParams), features, prompts, search.extractors)
    if data.source != NONE:
        found += judge_artefacts(section(params, "judges", JudgeParams))
    training, by = section(params, "finetune_range", TrainingParams), (features.extractor, data.size)
    found += optimizer_artefacts(training.optimizer) + tracker_artefacts(training.report_to)
    found += measure_artefacts(prompts, section(params, "clip_score", ClipScoreParams), *by)
    if scores_texts(params):
        found += measure_artefacts(prompts, section(params, "search_clip_score", ClipScoreParams), *by)
    return list(dict.fromkeys(found))


def _of_model(
    pretrain: PretrainParams, training: TrainingParams, sampler: SamplerParams
) -> tuple[Measured | None, str]:
    """What the model costs, as far as this machine knows it, and what is to be said of that."""
    if folder := model_folder(pretrain):
        return measure(folder, training, sampler), ""
    if architecture := PUBLIC.get(pretrain.source):
        note = f"of the public architecture of {pretrain.source}, random weights: nothing was fetched"
        return estimate(architecture, training, sampler), note
    return None, f"; before that only of {', '.join(PUBLIC)}" if is_hub_model(pretrain.source) else ""


def _misfit(pretrain: PretrainParams, data: DataParams) -> str | None:
    """Why the model does not fit the data, where both are known."""
    images = image_shape(data)
    try:
        if pretrain.train is not None:
            check_architecture(pretrain.train.architecture, images)
        elif folder := model_folder(pretrain):
            check_base(folder, images, captions=has_captions(data))
        elif architecture := PUBLIC.get(pretrain.source):
            check_images(images, architecture.model(META).pixels, pretrain.source)
    except InputError as error:
        return str(error)
    return None


def _artefact_line(artefact: Artefact) -> str:
    if artefact.path is None:
        return f"  MISSING  {artefact.kind:<10} {artefact.name}: {artefact.remedy}"
    # A path of no name stands for what comes with a package, or is made by the run.
    size = f" ({amount(artefact.size or 0, 'B')})" if artefact.path.name else ""
    return f"  present  {artefact.kind:<10} {artefact.name}{size}"


def _uncovered(extractor: str, images: int, blocks: int) -> list[str]:
    """A warning where distances of so few images get no interval."""
    try:
        count = feature_count(extractor)
    except InputError:  # named among what is missing
        return []
    note = uncovered(images, count, blocks) if count else None
    return [f"  warning: {note}"] if note else []


def _counts(counts: Counts) -> list[str]:
    return [
        f"  images trained on      {counts.trained:>14,}",
        f"  images of the searches {counts.searched:>14,}  at most, {counts.calls} network calls each",
        f"  other images sampled   {counts.sampled:>14,}  {counts.calls} network calls each",
    ]


def _prompted(name: str, prompt_set: PromptParams) -> int | None:
    """Images of a prompt set, of one model."""
    try:
        return load_prompts(name, prompt_set).images
    except InputError:  # its file is missing, and named above; or the run has yet to make it
        return None


def _measured(measured: Measured, counts: Counts, disk: int, batch: int) -> list[str]:
    calls = counts.calls * (counts.searched + counts.sampled)
    times = [f"  {name:<22} {hours:>14.2f}  h" for name, hours in measured.hours(counts).items()]
    vae = measured.encoding > 0
    memory, encoding = f"{amount(measured.memory, 'B'):>14}", f"{amount(1 / (measured.encoding or 1), ''):>14}"
    return [
        f"  parameters             {measured.parameters:>14,}",
        f"  FLOPs of training      {amount(2 * measured.macs * measured.passes * counts.trained, 'FLOP'):>14}",
        f"  FLOPs of sampling      {amount(2 * measured.macs * calls, 'FLOP'):>14}",
        f"  disk, at most          {amount(disk, 'B'):>14}",
        *[f"  latents and embeddings {amount(measured.encoded, 'B'):>14}  on disk, an image and its caption"][
            : bool(vae)
        ],
        f"  memory of a training   {memory}  about, in batches of {batch}: {fits(measured.memory)}",
        f"from what was timed on one {measured.device}:",
        *[f"  encoding               {encoding}  images a second"][: bool(vae)],
        *times,
    ]


def _prompted_line(name: str, count: int | None) -> str:
    if count is None:
        return f"  images of {name:<12} {'unknown yet':>14}  for each model, not counted above"
    return f"  images of {name:<12} {count:>14,}  for each model, counted above"


def fits(memory: int) -> str:
    """On which GPUs a training of so many bytes runs."""
    enough = [str(size) for size in GPUS if memory * ROOM < size * 1e9]
    if enough:
        return f"fits a GPU of {' or '.join(enough)} GB"
    return (
        f"too much for a GPU of {GPUS[-1]} GB; lower finetune_range.batch_size (gradient_accumulation makes up for it);"
        " gradient_checkpointing, ema_offload, mixed_precision and optimizer=adamw_8bit save memory, too"
    )
