"""Search the merge weights w (Sec. 3.3), or a baseline's; each trial is kept. `accelerate launch` shares its images."""

import argparse
from pathlib import Path

from deme_core.data.images import load_part
from deme_core.merging.task_vectors import vector_files
from deme_core.params import read, section
from deme_core.processes import by_main
from deme_core.prompts.saved import search_prompts
from deme_core.search.check import check_search
from deme_core.search.kinds import KINDS, searched
from deme_core.search.search import search
from deme_core.search.settings import SearchParams
from deme_core.search.task import SearchTask
from deme_core.search.trials import TrialLog
from deme_core.stage import run, run_params
from deme_core.work import only_one, work_dir


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--vectors", type=Path, required=True, nargs="+", help="folders of the task vectors")
    parser.add_argument("--reference", type=Path, required=True, help="output of the stage reference")
    parser.add_argument("--data", type=Path, required=True, help="output of the stage data: captions, images")
    parser.add_argument("--prompts", type=Path, required=True, help="folder of the outputs of the stages prompts")
    parser.add_argument("--examples", type=Path, required=True, help="output of the stage encode, for the loss")
    parser.add_argument(
        "--kind", choices=KINDS, default=["deme"], nargs="+",
        help="whose search: DeMe's, with w >= 0, a baseline's; of several folders the line of each",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of trials.csv and result.json")
    args = parser.parse_args()
    params = read()
    asked = section(params, "merge_search", SearchParams)
    train = load_part(args.data, "train")
    prompts = search_prompts(train.prompts, args.prompts, asked.prompts)
    check_search(run_params(params).N, asked, texts=bool(prompts))
    sources = [vector_files(folder) for folder in args.vectors]
    asked, space = searched(args.kind, asked, [len(source) for source in sources])
    vectors = [file for source in sources for file in source]
    reference = args.reference / "train.safetensors"
    task = SearchTask.of(params, asked, args.pretrained, vectors, reference, args.examples, train.pixels, prompts)
    work = work_dir("merge_search", task.identity, __file__)
    with only_one(work):
        log = TrialLog(work / "trials.csv", task.loss.model.weights)
        blocks, calls = task.loss.model.blocks, task.sampler.params.calls
        found = search(
            task.objective, task.loss, len(vectors), asked, log, calls, blocks, space, task.slope, task.apart
        )  # fmt: skip
    log.export(args.out / "trials.csv")
    by_main(lambda: found.write(args.out / "result.json"))
    return f"{' '.join(args.kind)}: {found} -> {args.out}"


if __name__ == "__main__":
    run(main, shared=True)
