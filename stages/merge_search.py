"""Search the merge weights w (Sec. 3.3), or a rival's; each trial is kept. `accelerate launch` shares its images."""

import argparse
from pathlib import Path

from deme_core.data.examples import load_examples
from deme_core.data.images import load_part
from deme_core.device import best_device
from deme_core.merging.objective import MergedLoss, Scorer, make_objective
from deme_core.merging.search import KINDS, check_search, search
from deme_core.merging.settings import SearchParams
from deme_core.merging.task_vectors import vector_files
from deme_core.merging.trials import TrialLog
from deme_core.metrics.clip_score import ClipScoreParams
from deme_core.metrics.features import FeatureParams
from deme_core.params import read, section
from deme_core.prompts.saved import search_prompts
from deme_core.sampling.generate import Sampler
from deme_core.sampling.settings import SamplerParams
from deme_core.stage import run, run_params
from deme_core.tensors import weights_hash
from deme_core.work import only_one, work_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--vectors", type=Path, required=True, help="folder of the task vectors")
    parser.add_argument("--reference", type=Path, required=True, help="output of the stage reference")
    parser.add_argument("--data", type=Path, required=True, help="output of the stage data: captions, images")
    parser.add_argument("--prompts", type=Path, required=True, help="folder of the outputs of the stages prompts")
    parser.add_argument("--examples", type=Path, required=True, help="output of the stage encode, for the loss")
    parser.add_argument("--kind", choices=KINDS, default="deme", help="whose search: DeMe's, with w >= 0, a rival's")
    parser.add_argument("--out", type=Path, required=True, help="folder of trials.csv and result.json")
    args = parser.parse_args()
    params = read()
    search_params = section(params, "merge_search", SearchParams)
    train = load_part(args.data, "train")
    prompts = search_prompts(train.prompts, args.prompts, search_params.prompts)
    check_search(run_params(params).N, search_params, texts=bool(prompts))
    search_params = KINDS[args.kind](search_params, len(vectors := vector_files(args.vectors)))
    scored, reference = search_params.objective, args.reference / "train.safetensors"
    extractor = section(params, "reference", FeatureParams).extractor
    beside = [Scorer.on(folder, train.pixels) for folder in search_params.extractors]
    scorer = Scorer.of(scored, extractor, reference, section(params, "clip_score", ClipScoreParams), beside)
    sampler = Sampler.of(args.pretrained, section(params, "sampler", SamplerParams), best_device(), prompts)
    examples = load_examples(args.examples, "train")
    loss = MergedLoss.of(args.pretrained, vectors, examples, sampler, per_block=search_params.per_block)
    objective = make_objective(scored, loss, sampler, scorer)
    asked = {"objective": [scored, loss.model.blocks], "scorer": scorer.identity}
    asked["hashes"] = [weights_hash(file) for file in (*vectors, reference)]
    work = work_dir("merge_search", sampler.identity | asked, __file__)
    with only_one(work):
        log = TrialLog(work / "trials.csv", loss.model.weights)
        result = search(objective, loss, len(vectors), search_params, log, sampler.params.calls, loss.model.blocks)
    log.export(args.out, result)


if __name__ == "__main__":
    run(main, shared=True)
