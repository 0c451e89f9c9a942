"""Search the merge weights w (Sec. 3.3), or a rival's, with as many images; every trial is kept as it ends."""

import argparse
import json
from pathlib import Path

from deme_core.merging.objective import frechet_objective
from deme_core.merging.search import TrialLog, method_of, rival_params, search
from deme_core.merging.settings import SearchParams
from deme_core.merging.task_vectors import vector_files
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.features import FeatureParams, load_extractor
from deme_core.metrics.moments import Moments
from deme_core.params import read, section
from deme_core.sampling.generate import Sampler, best_device
from deme_core.sampling.settings import SamplerParams
from deme_core.stage import run, run_params
from deme_core.tensors import weights_hash
from deme_core.work import only_one, work_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--vectors", type=Path, required=True, help="folder of the task vectors")
    parser.add_argument("--reference", type=Path, required=True, help="output of the stage reference")
    parser.add_argument("--rival", choices=["scale", "greedy"], help="how a rival's vectors combine; else DeMe's own")
    parser.add_argument("--out", type=Path, required=True, help="folder of trials.csv and result.json")
    args = parser.parse_args()
    params = read()
    N = run_params(params).N
    search_params = section(params, "merge_search", SearchParams)
    method = args.rival or method_of(N, search_params)
    vectors = vector_files(args.vectors)
    if args.rival:
        search_params = rival_params(method, len(vectors), search_params, N)
    sampler_params = section(params, "sampler", SamplerParams)
    extractor = load_extractor(section(params, "reference", FeatureParams).extractor)
    reference = Moments.of(read_features(args.reference / "train.safetensors", extractor.sha256))
    sampler = Sampler.of(args.pretrained, sampler_params, best_device())
    identity = {
        "vectors": [weights_hash(file) for file in vectors],
        "reference": weights_hash(args.reference / "train.safetensors"),
        "extractor": extractor.sha256,
        "sampler": params["sampler"],
        "noise_schedule": dict(sampler.noise_schedule.config),
    }
    work = work_dir("merge_search", identity)
    with only_one(work):
        objective = frechet_objective(args.pretrained, vectors, sampler, extractor, reference)
        log = TrialLog(work / "trials.csv", len(vectors))
        result = search(objective, len(vectors), search_params, log, method)
    log.export(args.out / "trials.csv")
    (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    run(main)
