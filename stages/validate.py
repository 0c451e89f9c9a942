"""Check the whole of params.yaml, before any stage spends time or DVC clears an output."""

import argparse
from pathlib import Path

from deme_core.dag import check_dag
from deme_core.data.encode import EncodeParams
from deme_core.data.images import DataParams
from deme_core.data.sources import SOURCES
from deme_core.hub_layouts import local_pipeline, source_schedule
from deme_core.inputs import check_inputs
from deme_core.merging.methods import MergeParams, check_blocks
from deme_core.merging.search import check_search
from deme_core.merging.settings import SearchParams
from deme_core.metrics.calibration import CalibrateParams
from deme_core.metrics.clip_score import ClipScoreParams
from deme_core.metrics.evaluation import EvaluateParams, check_samples
from deme_core.metrics.features import FeatureParams, feature_count
from deme_core.params import check, check_keys, read, section
from deme_core.prompts.table import prompt_params
from deme_core.sampling.conditions import check_prompts
from deme_core.sampling.settings import LossMatrixParams, SampleParams, SamplerParams
from deme_core.stage import RunParams, run, run_params
from deme_core.training.rivals import RivalParams, check_schedule
from deme_core.training.scratch import PretrainParams
from deme_core.training.settings import TrainingParams

SECTIONS = {
    "data": DataParams, "reference": FeatureParams, "pretrain_load": PretrainParams, "finetune_range": TrainingParams,
    "finetune_rival": RivalParams, "merge_search": SearchParams, "merge": MergeParams, "sampler": SamplerParams,
    "sample": SampleParams, "evaluate": EvaluateParams, "calibrate": CalibrateParams, "loss_matrix": LossMatrixParams,
    "encode": EncodeParams, "clip_score": ClipScoreParams,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="written once everything is right, always the same")
    args = parser.parse_args()
    params = read()
    check_keys(params, [*RunParams.__dataclass_fields__, *SECTIONS, "prompts", "dag", "inputs"])
    top, sets = run_params(params), prompt_params(params)
    check_dag(params.get("dag"), top.N, top.rivals, {name: own.reference for name, own in sets.items()})
    parsed = {name: section(params, name, cls) for name, cls in SECTIONS.items()}
    check((data := parsed["data"].source) in SOURCES, "data.source", data, f"known sources are {', '.join(SOURCES)}")
    kinds, texts = [s["kind"] for s in params["dag"]["searches"].values()], parsed["sample"].prompts is not None
    check_search(top.N, parsed["merge_search"], kinds, texts=texts, sets=sets)
    check_blocks(parsed["merge"], top.N, searched=parsed["merge_search"].per_block)
    pipeline = local_pipeline(parsed["pretrain_load"].source)
    check_prompts(parsed["sample"].prompts, sets, parsed["sampler"].guidance, pipeline)
    check_samples(parsed["sample"].images, parsed["evaluate"].blocks, feature_count(parsed["reference"].extractor))
    if pipeline is not None:
        check_schedule(source_schedule(pipeline), top, parsed["finetune_rival"], parsed["sampler"].steps)
    check_inputs(params)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("every section of params.yaml is well-formed\n")


if __name__ == "__main__":
    run(main)
