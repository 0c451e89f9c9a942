"""The results of the run as one page for a browser, which needs no network: tables, pictures, figures, samples."""

import argparse
from pathlib import Path

from deme_core.dag import DEME, STEPS
from deme_core.params import read
from deme_core.report.html_page import write_html_page
from deme_core.stage import run, run_params

SHOWN = ("pretrained", *STEPS, *DEME[::-1])  # whose samples can be laid beside the pretrained model's


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="output of the stage report")
    parser.add_argument("--analyses", type=Path, required=True, help="folder of the outputs of the stages analyse")
    parser.add_argument("--prompts", type=Path, required=True, help="output of report_prompts, read with prompt sets")
    parser.add_argument("--samples", type=Path, required=True, help="folder of the outputs of the stages sample")
    parser.add_argument("--out", type=Path, required=True, help="the HTML file")
    args = parser.parse_args()
    params = read()
    top, dag = run_params(params), params["dag"]
    previews = {m: args.samples / dag["sampled"][m] / "preview.png" for m in SHOWN if m in dag["sampled"]}
    settings = {"experiment": top.name, "N": top.N, "p": top.p, "seed": top.seed}
    prompts = args.prompts if dag["prompt_reports"] else None
    write_html_page(args.run, args.analyses, list(dag["analyses"]), prompts, previews, settings, args.out)
    return f"for a browser -> {args.out}"


if __name__ == "__main__":
    run(main)
