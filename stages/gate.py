"""Has each expert learned its own range, or own samples? Its validation loss against the base's, before the search."""

import argparse
import sys
from pathlib import Path

from deme_core.data.examples import load_examples
from deme_core.device import best_device
from deme_core.params import read, section
from deme_core.stage import run, run_params
from deme_core.training.gate import NOT_MEASURED, GateParams, measure_experts, refuse_losers, winners


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=Path, required=True, help="output of the stage encode")
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--experts", type=Path, required=True, help="folder of the experts 1 … N")
    parser.add_argument("--full-range", type=Path, help="baseline full_range, read where the run has it")
    parser.add_argument("--out", type=Path, required=True, help="CSV, one row an expert and model compared with")
    parser.add_argument("--passed", type=Path, required=True, help="written once the search may go on, always the same")
    args = parser.parse_args()
    params = read()
    gate = section(params, "gate", GateParams)
    for out in (args.out, args.passed):
        out.parent.mkdir(parents=True, exist_ok=True)
    compared = args.full_range is not None and "full_range" in run_params(params).baselines
    others = {"full_range": args.full_range / "1"} if compared else {}
    table = NOT_MEASURED
    if gate.must_win != "ignore":
        parts = (load_examples(args.examples, part) for part in ("validation", "train"))
        table = measure_experts(*parts, args.pretrained, args.experts, others, gate.draws, best_device())
    table.to_csv(args.out, index=False)
    print(table.round(5).to_string(index=False), file=sys.stderr)
    if gate.must_win == "stop":
        refuse_losers(table)
    args.passed.write_text("the search may go on\n", encoding="utf-8")
    return f"{winners(table)} -> {args.passed}"


if __name__ == "__main__":
    run(main)
