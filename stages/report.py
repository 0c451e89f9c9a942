"""The results of the run on one page: verdict of the judges, tables with their protocol, and the pictures."""

import argparse
from pathlib import Path

from deme_core.metrics.verdict import JudgeParams
from deme_core.params import read, section
from deme_core.report.run_page import RunFiles, write_run_page
from deme_core.stage import run, run_params
from deme_core.training.gate import GateParams


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", type=Path, required=True, help="folder of the outputs of the stages evaluate")
    parser.add_argument("--scores", type=Path, required=True, help="folder of their block scores")
    parser.add_argument("--samples", type=Path, required=True, help="folder of the outputs of the stages sample")
    parser.add_argument("--curves", type=Path, required=True, help="folder of the loss curves, a range each")
    parser.add_argument("--vectors", type=Path, required=True, help="folder of the task vectors")
    parser.add_argument("--loss-matrix", type=Path, required=True, help="output of the stage loss_matrix")
    parser.add_argument("--search", type=Path, required=True, help="output of the stage merge_search")
    parser.add_argument("--experts", type=Path, required=True, help="output of the stage gate")
    parser.add_argument("--own-experts", type=Path, required=True, help="of gate_own, read where the run has it")
    parser.add_argument("--judged", type=Path, required=True, help="folder of the outputs of the stages judge")
    parser.add_argument("--real", type=Path, required=True, help="statistics of the stage judge_reference")
    parser.add_argument("--calibration", type=Path, required=True, help="output of the stage calibrate")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.md, results.csv and the pictures")
    args = parser.parse_args()
    params = read()
    write_run_page(
        RunFiles(**{name: value for name, value in vars(args).items() if name != "out"}), run_params(params),
        params["dag"]["models"], params["finetune_range"]["iterations"], section(params, "gate", GateParams),
        section(params, "judges", JudgeParams), args.out,
    )  # fmt: skip
    print("\n" + (args.out / "results.txt").read_text(encoding="utf-8"))
    return f"the whole page, with every picture -> {args.out / 'results.md'}"


if __name__ == "__main__":
    run(main)
