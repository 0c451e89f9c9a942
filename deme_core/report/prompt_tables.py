"""Table 2 of the paper: every model on every prompt set, Fréchet distance and CLIP score, with intervals."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from deme_core.errors import InputError
from deme_core.metrics.bootstrap import paired_bootstrap, prompt_means
from deme_core.metrics.intervals import Interval, paired_interval
from deme_core.report.tables import needed, verdict
from deme_core.report.text import interval, markdown, model_name, number

# FID and CLIP score (ViT-g/14) of the paper's Table 2, of Stable Diffusion v1.4; PartiPrompts have no real images.
PAPER = {
    "coco": {
        "pretrained": "13.42 / 29.88", "snr_plus_one": "13.92 / 29.96", "truncated_snr": "13.93 / 29.95",
        "min_snr": "13.92 / 29.93", "ensemble": "12.78 / 29.85", "merged": "13.06 / 30.11",
    },
    "imagenet": {
        "pretrained": "27.62 / 27.07", "snr_plus_one": "27.56 / 27.03", "truncated_snr": "27.60 / 27.05",
        "min_snr": "27.59 / 27.02", "ensemble": "26.36 / 26.90", "merged": "27.23 / 27.09",
    },
    "parti": {
        "pretrained": "— / 29.78", "snr_plus_one": "— / 29.86", "truncated_snr": "— / 29.85", "min_snr": "— / 29.87",
        "ensemble": "— / 30.02", "merged": "— / 29.98",
    },
}  # fmt: skip
PAPERS_EXPERIMENT = "sd_v1_4"
PROTOCOL = ("images", "prompts", "size", "clip_model", "extractor", "reference_images", "seed_block", "device")


@dataclass(frozen=True)
class Measured:
    """A model on a prompt set, as the stage evaluate_prompts wrote it."""

    metrics: dict[str, Any]
    scores: pd.DataFrame
    """A row an image: image, prompt, text, clip_score."""

    @property
    def prompts(self) -> Any:
        """CLIP score of each prompt, [P]."""
        return prompt_means(self.scores["clip_score"], self.scores["prompt"])

    @property
    def blocks(self) -> list[float]:
        """Fréchet distance of each seed block; empty where there are no real images."""
        numbers = sum(key.startswith("frechet_block") for key in self.metrics)
        return [self.metrics[f"frechet_block{k + 1}"] for k in range(numbers)]


def read_measured(
    metrics: Path, scores: Path, sets: Iterable[str], models: Iterable[str]
) -> dict[str, dict[str, Measured]]:
    """Set -> model -> what was measured: SET/MODEL.json in the one folder, SET/MODEL.csv in the other."""

    def one(of_set: str, model: str) -> Measured:
        stage = f"evaluate_prompts@{model}+{of_set}"
        found = json.loads(needed(metrics / of_set / f"{model}.json", stage).read_text(encoding="utf-8"))
        return Measured(found, pd.read_csv(needed(scores / of_set / f"{model}.csv", stage)))

    names = list(models)
    return {of_set: {model: one(of_set, model) for model in names} for of_set in sets}


def table2(measured: Mapping[str, Mapping[str, Measured]]) -> pd.DataFrame:
    """One row a set and model, in full precision.

    `clip_score` with `_low` and `_high`, over the prompts; `clip_score_change` likewise, minus the pretrained model's
    on the same prompts and noise, by the bootstrap over prompts; where there are real images `frechet` and
    `frechet_change`, a t interval over the seed blocks; and a `_verdict` on either change.

    Raises:
        InputError: a model was measured by another protocol than the pretrained one.
    """
    rows = []
    for of_set, models in measured.items():
        base = models["pretrained"]
        for model, of_model in models.items():
            _check_protocol(of_set, model, of_model.metrics, base.metrics)
            row: dict[str, Any] = {"set": of_set, "model": model, "name": model_name(model)}
            row |= {key: of_model.metrics[key] for key in PROTOCOL if key in of_model.metrics}
            row |= {f"clip_score{end}": of_model.metrics[f"clip_score{end}"] for end in ("", "_low", "_high")}
            change = paired_bootstrap(of_model.prompts, base.prompts)
            row |= _change("clip_score", change, model, verdict(-change.high, -change.low))  # higher is better
            if of_model.blocks:
                row["frechet"] = of_model.metrics["frechet"]
                change = paired_interval(of_model.blocks, base.blocks)
                row |= _change("frechet", change, model, verdict(change.low, change.high))
            rows.append(row)
    return pd.DataFrame(rows).set_index(["set", "model"])


def page2(title: str, table: pd.DataFrame, paper: bool) -> str:
    """Table 2 as Markdown, models × sets; `paper` puts its numbers beside those sets that it has."""
    sets = list(dict.fromkeys(table.index.get_level_values("set")))
    models = list(dict.fromkeys(table.index.get_level_values("model")))
    header, rows = ["model"], {model: [model_name(model)] for model in models}
    for of_set in sets:
        set_table = table.loc[of_set]
        real = "frechet" in set_table and bool(set_table["frechet"].notna().all())
        header += [f"{of_set}: Fréchet distance ↓", "change, paired [95 %]"] * real
        header += [f"{of_set}: CLIP score ↑ [95 %]", "change, paired [95 %]"]
        header += [f"{of_set}, the paper:<br>FID / CLIP score"] * (paper and of_set in PAPER)
        for model in models:
            row = set_table.loc[model]
            if real:
                rows[model] += [number(row["frechet"], 3), _shown(row, "frechet_change", model)]
            rows[model] += [interval(row, "clip_score", 2), _shown(row, "clip_score_change", model)]
            if paper and of_set in PAPER:
                rows[model].append(PAPER[of_set].get(model, "—"))
    verdicts = [
        f"- {row['name']}, {row['set']}: CLIP score {row['clip_score_verdict']}"
        + (f", Fréchet distance {row['frechet_verdict']}" if pd.notna(row.get("frechet")) else "")
        for _, row in table.reset_index().iterrows()
        if row["model"] != "pretrained"
    ]
    return "\n\n".join(
        [
            f"# {title}",
            markdown(header, list(rows.values())),
            "CLIP score: 100 · max(cos, 0) of image and prompt, higher is better, the mean over the prompts; its"
            " intervals are a bootstrap over prompts, those of its changes over the prompts' differences on the same"
            " noise. The changes of the Fréchet distance (lower is better) are t intervals over seed blocks. Both cover"
            " the luck of prompts and noise, not that of training; none is widened for the number of comparisons.",
            "Verdict, by the interval of the change:",
            "\n".join(verdicts),
            "\n".join(_protocol(of_set, table.loc[(of_set, "pretrained")]) for of_set in sets),
            "Image by image, before and after: [gallery](gallery.md).\n",
        ]
    )


def _check_protocol(of_set: str, model: str, metrics: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    for key in sorted({*PROTOCOL, *(key for key in {*metrics, *base} if key.startswith("sampler_"))}):
        if metrics.get(key) != base.get(key):
            raise InputError(
                f"{of_set}: {model} was measured with {key} = {metrics.get(key)}, pretrained with {base.get(key)}; one"
                " table holds one protocol: `dvc repro` evaluates both"
            )


def _change(key: str, change: Interval, model: str, shown: str) -> dict[str, Any]:
    return {
        f"{key}_change": change.value, f"{key}_change_low": change.low, f"{key}_change_high": change.high,
        f"{key}_verdict": "base" if model == "pretrained" else shown,
    }  # fmt: skip


def _shown(row: pd.Series, key: str, model: str) -> str:
    return "—" if model == "pretrained" else interval(row, key, 3 if key.startswith("frechet") else 2, "+")


def _protocol(of_set: str, row: pd.Series) -> str:
    real = f"; {row['reference_images']:,.0f} real images, features of `{row['extractor']}`"
    return (
        f"- {of_set}: {row['prompts']:,} prompts, {row['images']:,} images a model from the seed block"
        f" {row['seed_block']}; CLIP model `{row['clip_model']}`{real if pd.notna(row.get('frechet')) else ''}"
    )
