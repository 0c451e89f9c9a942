"""Table 2 and the gallery of a text-to-image run."""

import argparse
from pathlib import Path

from deme_core.params import read
from deme_core.prompts.table import prompt_params
from deme_core.report.prompt_page import write_prompt_report
from deme_core.report.prompt_tables import PAPERS_EXPERIMENT, read_measured
from deme_core.stage import run, run_params


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", type=Path, required=True, help="folder of the outputs of evaluate_prompts")
    parser.add_argument("--scores", type=Path, required=True, help="folder of their scores of each image")
    parser.add_argument("--samples", type=Path, required=True, help="folder of the outputs of sample_prompts")
    parser.add_argument("--out", type=Path, required=True, help="folder of table2.md, gallery.md and the pictures")
    args = parser.parse_args()
    params = read()
    top, sets, models = run_params(params), prompt_params(params), params["dag"]["sampled"]
    measured = read_measured(args.metrics, args.scores, sets, models)
    samples = {name: {model: args.samples / name / model for model in models} for name in sets}
    title = f"{top.name}: Table 2, DeMe with N = {top.N}"
    write_prompt_report(measured, samples, title, top.name == PAPERS_EXPERIMENT, args.out)
    print("\n" + (args.out / "table2.txt").read_text(encoding="utf-8"))
    return f"Table 2 and the gallery -> {args.out / 'table2.md'}, {args.out / 'gallery.md'}"


if __name__ == "__main__":
    run(main)
