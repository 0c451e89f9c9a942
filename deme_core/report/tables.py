"""The results of a run: a table of raw numbers, and a Markdown page of it with protocol, verdicts and pictures."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deme_core.dag import AWAY, JOINT, MATCHED, NEON, OWN, SOUP_FULL_RANGE, SOUP_GREEDY, STEPS, is_random
from deme_core.errors import InputError
from deme_core.metrics.intervals import uncovered
from deme_core.metrics.two_sample import PREFIX
from deme_core.report.text import PARTS, interval, markdown, model_name, number
from deme_core.search.result import SearchResult

PICTURES = {
    "samples.png": "Samples of each model from the same noise.",
    "loss_curves.png": "Losses of finetuning, each point the mean since the last; one line a timestep range.",
    "loss_matrix.png": "Held-out denoising loss of each model on each range; outlined: the expert's own range.",
    "statistics.png": "Plain statistics of each model's images; the line: real images of the training part.",
    "search.png": "Trials of the merge search against w = 0 on the same seeds, by each weight; right: its finalists.",
    "cosines.png": "Cosine similarity of the task vectors: near 0, merging one disturbs the others little.",
}
FRECHET = {f"frechet_{part}": name for part, name in PARTS.items()}


SEPARABILITY = (
    " C2ST: area under the ROC curve of a classifier that tells a model's images, at the data's grey levels, from those"
    " of the training part by the features of each judge, cross-validated; 0.5 is chance, and real held-out"
    " images in the place of the model's, as many, give the mark."
)


def needed(file: Path, stage: str) -> Path:
    """`file`, or an InputError that names it and the stage that writes it."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; `dvc repro {stage}` writes it")
    return file


def read_metrics(directory: Path, models: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Everything measured of each model, as the stages evaluate@… wrote them."""
    return {m: json.loads(needed(directory / f"{m}.json", f"evaluate@{m}").read_text(encoding="utf-8")) for m in models}


def read_scores(directory: Path, models: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """The block scores of each model -> its path, as the stages evaluate@… wrote them: a row a seed block."""
    return {m: pd.read_csv(needed(directory / f"{path}.csv", f"evaluate@{m}")) for m, path in models.items()}


def training_steps(model: str, N: int, iterations: int, own_trainings: int) -> str:
    """Optimizer steps behind a model, by trainings: the same sum for all that were trained but `joint`.

    Args:
        own_trainings: those on own samples.
    """
    of_own = f"{own_trainings} × {iterations:,}" if own_trainings > 1 else f"{iterations:,}"
    if model == JOINT:
        return f"{N} × {iterations:,}" + f" + {of_own}" * (own_trainings > 0)
    if model in ("pretrained", MATCHED, *(set(STEPS) - {AWAY, NEON})) or is_random(model):
        return "—"
    name = model.partition("+")[0]
    if name in (AWAY, NEON):
        return of_own
    several = name in (*OWN, SOUP_FULL_RANGE, SOUP_GREEDY)
    return f"{N} × {iterations:,}" if several else f"{N * iterations:,}"


def verdict(low: float, high: float) -> str:
    """What the 95 % interval of a difference to the pretrained model shows; a lower distance is better."""
    return "better than pretrained" if high < 0 else "worse than pretrained" if low > 0 else "no difference shown"


def results(
    metrics: dict[str, dict[str, Any]], N: int, iterations: int, own_trainings: int = 0
) -> pd.DataFrame:  # fmt: skip
    """One row a model: its metrics in full precision, under the names that `evaluate` gives them.

    `N` experts and the trainings on own samples took `iterations` steps each. Added are `name`, `steps`,
    `frechet_*_change_percent` (of the pretrained model's plain distance) and `frechet_*_verdict`.

    Raises:
        InputError: a model has other metrics than the pretrained one, or was measured by another protocol.
    """
    base = metrics["pretrained"]
    protocol = (
        {"extractor", "images", "device"}
        | {"judges"} & base.keys()
        | {k for k in base if k.startswith(("sampler_", "seed_", "reference_"))}
    )
    for model, values in metrics.items():
        for key in sorted(set(values) ^ set(base)):
            raise InputError(f"metrics: only one of {model} and pretrained has '{key}'; `dvc repro` evaluates both")
        for key in sorted(protocol):
            if values[key] != base[key]:
                raise InputError(
                    f"metrics: {model} was measured with {key} = {values[key]}, pretrained with {base[key]}; one table"
                    " holds one protocol: `dvc repro` evaluates both"
                )
    table = pd.DataFrame(list(metrics.values()), index=pd.Index(list(metrics), name="model"))
    table.insert(0, "name", list(map(model_name, metrics)))
    table.insert(1, "steps", [training_steps(m, N, iterations, own_trainings) for m in metrics])
    for key, _ in _parts(table):
        table[f"{key}_change_percent"] = 100 * table[f"{key}_change"] / base[key]
        table[f"{key}_verdict"] = list(map(verdict, table[f"{key}_change_low"], table[f"{key}_change_high"]))
        table.loc["pretrained", f"{key}_verdict"] = "base"
    return table


def search_scores(trials: pd.DataFrame, result: SearchResult) -> list[list[str]]:
    """Rows of text for the searched, the zero and the uniform weights.

    Columns: weights; change against w = 0 in the first round (a dash where it sampled none), on the confirming seeds,
    and the gap between the two; confirming score.
    """
    count, zero, blocks = len(result.weights), result.confirm_score_pretrained, result.blocks
    first = first_changes(trials, "search")
    at = np.isclose(first[weight_names(count)].to_numpy(), result.uniform).all(axis=1)
    uniform = float(first["change"].to_numpy()[at].mean()) if at.any() else None
    rows = {
        "searched": (result.weights, result.search_change, result.confirm_score),
        "zero: pretrained": ([0.0] * count, 0.0, zero),
        "uniform: 1/N": (result.uniform, uniform, result.confirm_score_uniform),
    }
    cells = []
    for kind, (weights, said, score) in rows.items():
        told, change = math.nan if said is None else said, score - zero
        changes = [number(value, 4, "+") for value in (told, change, change - told)]
        cells.append([kind, weights_text(weights, blocks), *changes, number(score, 4)])
    return cells


def weights_text(weights: Sequence[float], blocks: Sequence[str]) -> str:
    """0.1, 0.2; with blocks, "down_blocks.0: 0.1, 0.2; mid_block: …", or once what all blocks have."""
    rows = np.array(weights).reshape(max(1, len(blocks)), -1)
    texts = [", ".join(f"{w:.3g}" for w in row) for row in rows]
    if (rows == rows[0]).all():
        return texts[0]
    return "; ".join(f"{block}: {text}" for block, text in zip(blocks, texts, strict=True))


def weight_names(N: int) -> list[str]:
    """The columns of the weights in trials.csv."""
    return [f"w{i}" for i in range(1, N + 1)]


def first_changes(trials: pd.DataFrame, round_name: str) -> pd.DataFrame:
    """The trials of a round with their `change`: score minus that of w = 0 on the same seeds; others are left out."""
    of_round = trials[trials["round"] == round_name]
    names = [name for name in map(str, trials) if name.startswith("w")]
    zero = of_round[(of_round[names] == 0).all(axis=1)].set_index(["first", "images"])["score"]
    base = zero.reindex(pd.MultiIndex.from_frame(of_round[["first", "images"]])).to_numpy()
    return of_round.assign(change=of_round["score"].to_numpy() - base, zero=base).dropna()


def page(
    title: str, table: pd.DataFrame, trials: pd.DataFrame, result: SearchResult, figures: dict[str, str],
    lead: Sequence[str] = (), sections: Sequence[str] = (),
) -> str:  # fmt: skip
    """The whole report as Markdown.

    Args:
        figures: name of a PNG -> its caption.
        lead: paragraphs under the title, of the judges.
        sections: paragraphs before the search.
    """
    base: Any = table.loc["pretrained"]
    blocks = f"{base.seed_blocks} blocks of {base.images // base.seed_blocks:,}"
    first, last = (trials[trials["round"] == round_name] for round_name in ("search", "confirm"))
    images = f"{', '.join(f'{n:,}' for n in first['images'].unique())} images a trial" if len(first) else "none sampled"
    final = f"{last['first'].nunique()} × {last['images'].iloc[0]:,} images"
    kept = " The search kept w = 0: its merged model is the pretrained one." if not any(result.weights) else ""
    unit = result.best_change_unit
    best = interval(asdict(result), "best_change", 1 if unit else 4, "+") + (unit and f" {unit}")
    sets = "".join(f", of images with the prompts of `{name}` among others" for name in result.prompts)
    paragraphs = [
        f"# {title}",
        *lead,
        "## By the search's own extractor",
        markdown(*_readable(table)),
        f"Protocol: {base.images:,} images a model from the seed block {base.seed_block}, in {blocks}; sampler"
        f" {base.sampler_kind}, {base.sampler_steps} steps, {base.sampler_spacing} spacing, {base.sampler_dtype}, on"
        f" {base.device}; features of `{base.extractor}`; {base.reference_images:,} reference images in the training"
        " part.",
        "How to read it: lower is better. A distance stands as its plain value, which other tools print"
        f"{_corrected_note(table)} A change is the mean"
        f" difference to the pretrained model on the same noise, with a 95 % t interval of the differences over the"
        f" {blocks}; its percentage is of the pretrained model's plain value. Compare models by the change, not by"
        " whether their own intervals overlap. The intervals cover the luck of sampling, not that of training, and"
        " none is widened for the number of comparisons. Copy rate: share of images that lie nearer to a training"
        " image than that one's nearest neighbour; real held-out images give the level without copying."
        f"{SEPARABILITY * (PREFIX in table)}",
        "What the interval of the change shows, by the features that the search has optimised and that therefore settle"
        " nothing:",
        "\n".join(
            f"- {row['name']}: " + "; ".join(f"{row[f'{key}_verdict']} on the {part}" for key, part in _parts(table))
            for _, row in table.iloc[1:].iterrows()
        ),
        *sections,
        f"## Merge search: {result.method}, {result.trials} trials",
        markdown(
            [
                "weights",
                "w",
                f"change, first round<br>{images}",
                f"change, fresh seeds<br>{final}",
                "gap",
                "score, fresh",
            ],
            search_scores(trials, result),
        ),
        f"Scores are of the objective `{result.objective}`, distances to the training part{sets}. A change is"
        " against w = 0 on the same seeds, in the first round as the method has it (the `surrogate`'s is fitted). A gap"
        " above 0 is what the first round took for quality and was luck. Images sampled in all:"
        f" {result.images_sampled:,.0f}.",
        f"The best finalist, w = ({weights_text(result.best, result.blocks)}), changes the score of w = 0 by"
        f" {best}, paired over the confirming blocks; it is taken"
        f" where this 95 % interval lies below 0, else w = 0.{kept}",
        *(f"![{Path(file).stem}]({file})\n\n{caption}" for file, caption in figures.items()),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _parts(table: pd.DataFrame) -> list[tuple[str, str]]:
    return [(key, part) for key, part in FRECHET.items() if key in table]


def _uncovered(table: pd.DataFrame) -> str | None:
    base: Any = table.loc["pretrained"]
    return uncovered(base.images, base.feature_count, base.seed_blocks) if "feature_count" in table else None


def _corrected_note(table: pd.DataFrame) -> str:
    """The end of the sentence on plain values: what stands below them, or why nothing does."""
    if note := _uncovered(table):
        return f". {note}"
    return ", and below it freed of its upward bias, with a 95 % interval, by the jackknife over groups of images."


def _readable(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results as text, with four significant digits of the pretrained model's values."""
    base: Any = table.loc["pretrained"]
    unit = 1000 if abs(base.kid_train) < 0.1 else 1
    kid_digits = _digits(base.kid_train * unit)
    header, covered = ["model"], _uncovered(table) is None
    for _, part in _parts(table):
        shown = "plain; corrected [95 %]" if covered else "plain"
        header += [f"Fréchet distance, {part}<br>{shown}", "its change<br>paired [95 %]"]
    header += [f"KID, training part{', in 10⁻³' * (unit > 1)}<br>± 95 %", "copy rate"]
    header += ["C2ST: AUC, all judges<br>± 95 %"] if PREFIX in table else []
    header += ["training steps", "parameters", "MACs a step"]
    rows = []
    for model, row in table.iterrows():
        cells = [row["name"]]
        for key, _ in _parts(table):
            digits = _digits(base[key])
            percent = number(row[f"{key}_change_percent"], 1, "+")
            change = f"{interval(row, f'{key}_change', digits, '+')}<br>({percent} %)"
            corrected = f"<br>{interval(row, key, digits, value='_corrected')}" if covered else ""
            cells += [f"{number(row[key], digits)}{corrected}"]
            cells += ["—" if model == "pretrained" else change]
        half = (row.kid_train_high - row.kid_train_low) / 2
        real = f"<br>(real {100 * row.copy_rate_real:.1f} %)" if "copy_rate_real" in row else ""
        cells += [f"{number(row.kid_train * unit, kid_digits)} ± {number(half * unit, kid_digits)}"]
        cells += [f"{100 * row.copy_rate:.1f} %{real}", *_separability(row), row.steps]
        cells += [f"{row.parameters:,}", f"{row.macs_per_step:,}"]
        rows.append(cells)
    return header, rows


def _separability(row: pd.Series) -> list[str]:
    """The cell of the classifier two-sample test, where it was made."""
    if PREFIX not in row:
        return []
    real = f"<br>(real {row[f'{PREFIX}_real']:.3f})" if f"{PREFIX}_real" in row else ""
    return [f"{row[PREFIX]:.3f} ± {(row[f'{PREFIX}_high'] - row[f'{PREFIX}_low']) / 2:.3f}{real}"]


def _digits(value: float) -> int:
    """Decimals that show four significant digits of `value`."""
    return max(0, 3 - math.floor(math.log10(abs(value)))) if value else 4
