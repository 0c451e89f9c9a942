"""The whole of params.yaml at once, before any stage spends time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deme_core.analysis.names import check_plane
from deme_core.analysis.settings import AnalyseParams
from deme_core.checkpoints import noise_schedule
from deme_core.components import is_text_to_image
from deme_core.dag import JOINT, check_dag
from deme_core.data.encode import EncodeParams
from deme_core.data.images import DataParams
from deme_core.data.sources import SOURCES, has_captions, image_shape
from deme_core.fit import check_architecture, check_base
from deme_core.hub_layouts import local_pipeline, source_schedule
from deme_core.inputs import check_inputs, check_paths
from deme_core.merging.away import AwayParams
from deme_core.merging.methods import MergeParams, check_blocks
from deme_core.merging.untrained import EarlyParams, check_untrained
from deme_core.metrics.calibration import CalibrateParams
from deme_core.metrics.clip_score import ClipScoreParams
from deme_core.metrics.evaluation import EvaluateParams, check_samples
from deme_core.metrics.extractor_fit import check_extractors_fit
from deme_core.metrics.features import FeatureParams, feature_count
from deme_core.metrics.judges import judge_folders
from deme_core.metrics.verdict import JudgeParams
from deme_core.params import check, check_keys, section
from deme_core.prompts.check import check_sets
from deme_core.prompts.settings import PromptParams
from deme_core.prompts.table import prompt_params
from deme_core.sampling.conditions import check_prompts
from deme_core.sampling.schedulers import check_sampler
from deme_core.sampling.settings import OwnParams, SampleParams, SamplerParams
from deme_core.search.check import check_extractors, check_search, check_slope
from deme_core.search.settings import SearchParams
from deme_core.stage import RunParams, run_params
from deme_core.training.baselines import BaselineParams, check_schedule
from deme_core.training.flips import check_flips
from deme_core.training.gate import GateParams, check_gate
from deme_core.training.learning_rate import check_rate
from deme_core.training.range_losses import LossMatrixParams
from deme_core.training.scratch import PretrainParams
from deme_core.training.settings import TrainingParams

SECTIONS = {
    "data": DataParams, "reference": FeatureParams, "pretrain_load": PretrainParams, "finetune_range": TrainingParams,
    "finetune_baseline": BaselineParams, "merge_search": SearchParams, "merge": MergeParams, "sampler": SamplerParams,
    "sample": SampleParams, "evaluate": EvaluateParams, "calibrate": CalibrateParams, "loss_matrix": LossMatrixParams,
    "encode": EncodeParams, "clip_score": ClipScoreParams, "search_clip_score": ClipScoreParams, "judges": JudgeParams,
    "gate": GateParams, "own_samples": OwnParams, "away": AwayParams, "early": EarlyParams, "analyse": AnalyseParams,
}  # fmt: skip


def check_params(params: dict[str, Any], *, shaped: bool = True) -> None:
    """Refuse what no run could be made of.

    Args:
        shaped: whether the images have the shape that `data` gives them; else nothing is held against it.

    Raises:
        InputError: it names the value, the rule and the remedy.
    """
    check_keys(params, [*RunParams.__dataclass_fields__, *SECTIONS, "analyses", "prompts", "dag", "inputs"])
    top, sets = run_params(params), prompt_params(params)
    references = {name: prompts.reference for name, prompts in sets.items()}
    figures = params.get("analyses", ())
    check_dag(params.get("dag"), top.N, top.baselines, references, top.random_draws, top.directions, figures)
    parsed: dict[str, Any] = {name: section(params, name, cls) for name, cls in SECTIONS.items()}
    check((data := parsed["data"].source) in SOURCES, "data.source", data, f"known sources are {', '.join(SOURCES)}")
    kinds, texts = [s["kind"] for s in params["dag"]["searches"].values()], parsed["sample"].prompts is not None
    check_gate(parsed["gate"], parsed["data"].held_out, parsed["data"].validation)
    check_plane(parsed["analyse"].plane, figures, top, parsed["own_samples"].ranges)
    check_rate(parsed["finetune_range"], parsed["data"].held_out, parsed["data"].validation)
    _check_held_out(parsed["data"], sets, parsed["calibrate"])
    check_paths(params)
    check_sets(sets, captions=has_captions(parsed["data"]))
    judge_folders(Path(parsed["judges"].folder))
    check_search(top.N, parsed["merge_search"], kinds, texts=texts, sets=sets)
    check_extractors(parsed["merge_search"].extractors, parsed["reference"].extractor, parsed["judges"])
    check_slope(parsed["merge_search"], parsed["reference"].extractor)
    check_blocks(parsed["merge"], top.N, searched=parsed["merge_search"].per_block)
    load, sampler = parsed["pretrain_load"], parsed["sampler"]
    pipeline, images = local_pipeline(load.source), image_shape(parsed["data"])
    if load.train is not None:
        check_architecture(load.train.architecture, images)
    elif pipeline is not None:
        check_base(Path(load.source), images, captions=has_captions(parsed["data"]))
    searched = parsed["merge_search"].extractors
    check_extractors_fit(images if shaped else None, parsed["reference"], searched, parsed["judges"], sets)
    check_prompts(parsed["sample"].prompts, sets, sampler.guidance, pipeline)
    check_samples(parsed["sample"].images, parsed["evaluate"].blocks, feature_count(parsed["reference"].extractor))
    if pipeline is not None:
        check_schedule(schedule := source_schedule(pipeline), top, parsed["finetune_baseline"], sampler.steps)
        check_sampler(schedule, sampler, text := is_text_to_image(pipeline))
        if text:
            check_flips(params)
        T, ranges = schedule.config.num_train_timesteps, parsed["own_samples"].ranges
        check(ranges <= T, "own_samples.ranges", ranges, f"must be at most T = {T}")
    check_untrained(top.directions, parsed["early"], pipeline)
    plain = JOINT not in top.directions or parsed["finetune_range"].projection != "released"
    check(
        plain or not params["dag"]["untrained"], "directions", list(top.directions),
        f"{JOINT} merges vectors of the same tensors, and finetune_range.projection = released leaves layers in the"
        f" experts that {', '.join(params['dag']['untrained'])} lacks; take projection foldable",
    )  # fmt: skip
    if load.train is not None:
        check_sampler(noise_schedule(load.train.noise_schedule), sampler, latents=False)
    check_inputs(params)


def _check_held_out(data: DataParams, sets: Mapping[str, PromptParams], calibrate: CalibrateParams) -> None:
    """Refuse what reads the held-out part of a run that holds nothing out; tables leave that part out."""
    if data.held_out != 0:
        return
    remedy = "hold some out with data.held_out, as 0.1"
    for name, prompts in sets.items():
        check(prompts.source != "heldout", f"prompts.{name}.source", prompts.source, f"data.held_out = 0: {remedy}")
    wants = calibrate.value is not None and calibrate.metric.endswith("heldout")
    check(not wants, "calibrate.metric", calibrate.metric, f"data.held_out = 0: {remedy}, or take another metric")
