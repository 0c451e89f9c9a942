"""Which sampler suits a model?

The same model by every stock sampler with equal network calls, on the seeds of BASE and by the development judges, so
that neither search nor evaluation has seen what decides. Then the best of them with twice the calls, and twice as many,
until that changes the distance by less than 2 %: what is left is the model's own error.

With `--beside neon=models/n4/neon` other models of the same base are measured by the same samplers on the same noise:
does a gain survive the reader's choice of sampler, and how many calls does it save?
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deme_core.checkpoints import denoiser_dir, load_denoiser, load_noise_schedule
from deme_core.command_line import check_option, command_line
from deme_core.data.images import load_part
from deme_core.denoising import single
from deme_core.device import best_device, device_name
from deme_core.errors import InputError
from deme_core.merging.same_model import said_differences
from deme_core.metrics.intervals import Interval
from deme_core.metrics.judges import block_distances, group_name, load_judges
from deme_core.metrics.verdict import verdict_of
from deme_core.out_files import check_out_files
from deme_core.progress import progress
from deme_core.report.browser import write_document
from deme_core.report.study_figures import sampler_curves
from deme_core.report.text import markdown, number
from deme_core.report.verdicts import shown
from deme_core.sampling.generate import Sampler, refuse_one_colour
from deme_core.sampling.schedulers import check_sampler
from deme_core.sampling.settings import SamplerParams
from deme_core.seeds import SeedBlock
from deme_core.stage import run

EXAMPLES = (
    "--pipeline models/pretrained --judges zoo/judges/digits/development --out samplers",
    "--pipeline models/pretrained --beside neon=models/n4/neon --judges zoo/judges/digits/development --out samplers",
)
DEFAULT = "default %(default)s"
STOCK = (
    ("ddim", "uniform"), ("ddim", "trailing"), ("ddim", "quadratic"), ("dpm_solver", "uniform"),
    ("dpm_solver", "trailing"), ("unipc", "uniform"), ("unipc", "trailing"), ("pndm", "uniform"),
)  # fmt: skip
BROKEN = 3  # times the best distance at equal calls
SETTLED = 0.02  # change of the distance by twice the calls, below which they are many enough
DOUBLINGS = 3
MEAN = "all judges"
Blocks = Mapping[str, Sequence[float]]
"""Judge -> the distance of each seed block."""
Measure = Callable[[SamplerParams], Blocks]
Asked = tuple[str, str, int]
"""Kind, spacing, network calls."""


def mean_distances(blocks: Blocks) -> dict[str, float]:
    """Judge -> its mean distance, and their geometric mean as MEAN."""
    found = {judge: float(np.mean(distances)) for judge, distances in blocks.items()}
    return found | {MEAN: float(np.exp(np.mean(np.log(list(found.values())))))}


def asked(calls: Sequence[int]) -> list[Asked]:
    """Every stock sampler at each number of network calls."""
    return [(kind, spacing, count) for count in calls for kind, spacing in STOCK]


def refusals(noise_schedule: Any, calls: Sequence[int], base: SamplerParams) -> dict[Asked, str]:
    """The stock samplers that cannot work with the noise schedule of a model of pixels, each with the reason."""
    found = {}
    for one in asked(calls):
        try:
            check_sampler(noise_schedule, sampler(base, *one), latents=False)
        except InputError as error:
            found[one] = str(error).removeprefix("params: ")
    return found


def compare_samplers(
    measure: Measure, calls: Sequence[int], base: SamplerParams, refused: Collection[Asked] = ()
) -> pd.DataFrame:  # fmt: skip
    """Every stock sampler at each number of network calls, and the best at the most of them with twice as many.

    Args:
        base: what they share: block, dtype, guidance.
        refused: those that are left out.

    Returns:
        A row a sampler: kind, spacing, calls, the distance by each judge, their geometric mean, and `of_best`, how many
        times the lowest mean at equal calls that is.
    """
    usable = [one for one in asked(calls) if one not in refused]
    rows = [row(measure, base, *one) for one in progress(usable, desc="samplers", unit="sampler")]
    last = min((one for one in rows if one["calls"] == max(calls)), key=lambda one: one[MEAN])
    for _ in range(DOUBLINGS):
        try:
            rows.append(more := row(measure, base, last["kind"], last["spacing"], 2 * last["calls"]))
        except InputError as error:  # a model of few timesteps has no more of them
            print(f"warning: {error}", file=sys.stderr)
            break
        if abs(more[MEAN] / last[MEAN] - 1) < SETTLED:
            break
        last = more
    table = pd.DataFrame(rows)
    table["of_best"] = table[MEAN] / table.groupby("calls")[MEAN].transform("min")
    return table


def row(measure: Measure, base: SamplerParams, kind: str, spacing: str, calls: int) -> dict[str, Any]:
    """One sampler measured with so many calls."""
    params = sampler(base, kind, spacing, calls)
    return {"kind": kind, "spacing": spacing, "calls": calls} | mean_distances(measure(params))


def sampler(base: SamplerParams, kind: str, spacing: str, calls: int) -> SamplerParams:
    """With so many network calls; PLMS makes one step twice."""
    steps = calls - (kind == "pndm")
    return replace(base, kind=kind, spacing=spacing, steps=steps, timesteps=None)  # type: ignore[arg-type]


def compare_models(
    models: Mapping[str, Measure], pretrained: Measure, calls: Sequence[int], base: SamplerParams,
    refused: Collection[Asked] = (),
) -> pd.DataFrame:  # fmt: skip
    """Models beside the pretrained one, by every stock sampler on the same noise.

    Returns:
        A row a model and sampler: model, kind, spacing, calls, its distance (MEAN), that of the pretrained model
        (`pretrained`), and the change in percent with the ends of its paired interval, by all judges.
    """
    rows = []
    usable = [one for one in asked(calls) if one not in refused]
    for kind, spacing, count in progress(usable, desc="beside", unit="sampler"):
        params = sampler(base, kind, spacing, count)
        theirs = pretrained(params)
        for name, measure in models.items():
            ours = measure(params)
            ratios = {judge: np.log(np.divide(ours[judge], theirs[judge])) for judge in theirs}
            rows.append(
                {"model": name, "kind": kind, "spacing": spacing, "calls": count}
                | {MEAN: mean_distances(ours)[MEAN], "pretrained": mean_distances(theirs)[MEAN]}
                | verdict_of(ratios).change.named("change")
            )
    return pd.DataFrame(rows)


def calls_saved(beside: pd.DataFrame) -> list[str]:
    """For each model: with how many calls its best sampler gives what the pretrained model's gives with the most."""
    most = beside["calls"].max()
    target = beside.loc[beside["calls"] == most, "pretrained"].min()
    lines = []
    for name, of_model in beside.groupby("model", sort=False):
        best = of_model.groupby("calls")[MEAN].min()
        enough = [int(count) for count in best.index if best[count] <= target]
        said = f"with {min(enough)} calls" if enough else f"not with {most} calls, but {number(best[most], 3)}"
        lines.append(f"- {name} reaches the pretrained model's {number(target, 3)} of {most} calls: **{said}**")
    return lines


def page(
    table: pd.DataFrame, protocol: str, beside: pd.DataFrame | None = None, refused: Mapping[Asked, str] | None = None
) -> str:  # fmt: skip
    """Markdown: a row a sampler, a column a number of calls, what is broken or refused named; models `beside` it."""
    calls = sorted(table["calls"].unique())
    cells, broken = [], []
    for (kind, spacing), of_sampler in table.groupby(["kind", "spacing"], sort=False):
        found = of_sampler.set_index("calls")
        line = [f"{kind}, {spacing}"]
        for count in calls:
            if count not in found.index:
                line.append("")
                continue
            value, of_best = (float(found[key][count]) for key in (MEAN, "of_best"))
            line.append(f"**{number(value, 3)}**" if of_best == 1 else number(value, 3))
            if of_best > BROKEN:
                broken.append(f"- **BROKEN: {kind}, {spacing} spacing, {count} calls: {of_best:.1f} times the best.**")
        cells.append(line)
    return "\n\n".join([
        "# Samplers of the pretrained model",
        "Distance, geometric mean over the judges; lower is better, the best at equal calls in bold.",
        markdown(["sampler", *(f"{count} calls" for count in calls)], cells),
        *(["\n".join(broken)] if broken else []),
        *(["\n".join(f"- left out: {reason}" for reason in refused.values())] if refused else []),
        "![samplers](samplers.png)",
        *([] if beside is None else _beside(beside)),
        protocol,
    ]) + "\n"  # fmt: skip


def _beside(beside: pd.DataFrame) -> list[str]:
    rows = []
    for row in beside.sort_values(["model", "calls"], kind="stable").to_dict("records"):
        change = Interval(row["change"], row["change_low"], row["change_high"])
        distances = [number(row[key], 3) for key in ("pretrained", MEAN)]
        rows.append([row["model"], f"{row['kind']}, {row['spacing']}", str(row["calls"]), *distances, shown(change)])
    return [
        "## Other models by the same samplers",
        "Change of the distance, geometric mean over the judges, on the same noise, with a 95 % interval over the seed"
        " blocks. What is reached with fewer calls takes the best sampler for so many.",
        "\n".join(calls_saved(beside)),
        markdown(["model", "sampler", "calls", "pretrained", "model's", "change"], rows),
    ]


def check_numbers(calls: Sequence[int], images: int, blocks: int, block: int, beside: bool) -> None:
    """Refuse numbers of the command line that nothing could be measured with."""
    for option, value in (("calls", min(calls)), ("images", images), ("blocks", blocks), ("block", block)):
        check_option(value >= 1, f"--{option}", value, "must be at least 1")
    check_option(images % blocks == 0, "--images", images, f"must be a multiple of --blocks = {blocks}")
    check_option(images > blocks, "--images", images, "must be at least twice --blocks: one image has no distance")
    check_option(blocks > 1 or not beside, "--blocks", blocks, "must be at least 2 with --beside: one has no interval")


def main() -> None:
    """The command."""
    parser = command_line("python -m deme_core.report.samplers", __doc__, *EXAMPLES)
    parser.add_argument("--pipeline", type=Path, required=True, help="a diffusers pipeline, such as models/pretrained")
    parser.add_argument("--beside", nargs="*", default=[], metavar="NAME=PIPELINE", help="other models of this base")
    parser.add_argument("--data", type=Path, default=Path("data/images"), help=f"output of the stage data; {DEFAULT}")
    parser.add_argument("--judges", type=Path, required=True, help="such as zoo/judges/digits/development")
    parser.add_argument("--calls", type=int, nargs="+", default=[10, 20, 50], help=f"network calls an image; {DEFAULT}")
    parser.add_argument("--images", type=int, default=2000, help=f"a sampler; {DEFAULT}")
    parser.add_argument("--blocks", type=int, default=4, help=f"of seeds, whose distances are averaged; {DEFAULT}")
    parser.add_argument("--block", type=int, default=500, help=f"images a network call; {DEFAULT}")
    parser.add_argument("--out", type=Path, required=True, help="folder of samplers.md, .csv, .png and .html")
    parser.add_argument("--force", action="store_true", help="replace earlier ones in --out")
    args = parser.parse_args()
    check_numbers(args.calls, args.images, args.blocks, args.block, beside=bool(args.beside))
    for named in args.beside:
        check_option("=" in named, "--beside", named, "must be NAME=PIPELINE, such as neon=models/n4/neon")
    others = {name: Path(folder) for name, _, folder in (named.partition("=") for named in args.beside)}
    written = [*(f"samplers.{kind}" for kind in ("md", "csv", "png", "html")), *(["beside.csv"] if others else [])]
    inputs = [args.pipeline, *others.values(), args.data, args.judges]
    check_out_files(args.out, [args.out / name for name in written], inputs, args.force)
    for folder in (args.pipeline, *others.values()):
        if not (folder / "model_index.json").is_file():
            raise InputError(f"{folder}: no diffusers pipeline; name a folder with model_index.json")
    for other in others.values():
        if listed := said_differences(args.pipeline, other):
            raise InputError(
                f"--beside {other} is another model than {args.pipeline}: {listed}. Name models of this base"
            )
    judges, device = load_judges(args.judges), best_device()
    pixels = load_part(args.data, "train").pixels
    real = {judge.name: {"train": judge.extractor([pixels])} for judge in judges}
    base = SamplerParams(kind="ddim", steps=10, spacing="uniform", block=args.block, dtype="float32")

    def measure(folder: Path) -> Measure:
        denoise = single(load_denoiser(denoiser_dir(folder)), device)

        @cache
        def measured(params: SamplerParams) -> Blocks:
            images = Sampler.of(args.pipeline, params, device).images(denoise, SeedBlock.BASE, 0, args.images)
            refuse_one_colour(images, f"{folder} by {params.kind}, {params.spacing} spacing")
            found = {}
            for judge in judges:
                distances = block_distances(judge, judge.extractor([images]), real[judge.name], args.blocks)
                found[judge.name] = distances[f"{judge.name}_train"]
            return found

        return measured

    pretrained = measure(args.pipeline)
    refused = refusals(load_noise_schedule(args.pipeline), args.calls, base)
    if len(refused) == len(asked(args.calls)):
        raise InputError(f"{args.pipeline}: no stock sampler works; the first: {next(iter(refused.values()))}")
    table = compare_samplers(pretrained, args.calls, base, refused)
    models = {name: measure(folder) for name, folder in others.items()}
    beside = compare_models(models, pretrained, args.calls, base, refused) if models else None
    protocol = (
        f"Protocol: `{args.pipeline}`, {args.images:,} images a sampler from the seed block BASE in {args.blocks}"
        f" blocks, float32 on {device_name(device)}; judges `{group_name(args.judges, judges)}`, to the training part."
    )
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "samplers.csv", index=False)
    sampler_curves(args.out / "samplers.png", table)
    if beside is not None:
        beside.to_csv(args.out / "beside.csv", index=False)
    markdown_file = args.out / "samplers.md"
    markdown_file.write_text(text := page(table, protocol, beside, refused), encoding="utf-8")
    write_document(markdown_file)
    print(text)


if __name__ == "__main__":
    run(main)
