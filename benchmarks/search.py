"""How good the merge weights are that each search method finds with a number of images, on a finished run.

    python benchmarks/search.py            # more than an hour on one core; goes on where it stopped

The truth: a grid of 5 values a weight with 1,000 images a point, of whose best 20 the best is chosen with 20,000
others. A method then searches with several seeds, each on images of its own, and what it nominates first is scored on
20,000 images that have chosen nothing: its regret is the paired change against the best of the grid there (below 0
where it found better ones), in percent of the pretrained model's score. A method that cannot work with a budget is left
out.
"""

import argparse
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from deme_core.errors import InputError
from deme_core.merging.task_vectors import vector_files
from deme_core.metrics.intervals import paired_interval
from deme_core.params import read, section
from deme_core.progress import progress
from deme_core.report.text import markdown, number
from deme_core.search.check import check_search
from deme_core.search.first_round import FirstRound
from deme_core.search.methods import METHODS, nominate
from deme_core.search.settings import SearchParams
from deme_core.search.task import SearchTask
from deme_core.search.trials import Trial, TrialLog, Weights
from deme_core.seeds import SeedBlock
from deme_core.stage import run, run_params
from deme_core.work import only_one, work_dir

OUT = Path("benchmarks")
IMAGES = 1000  # a trial
BLOCKS, BLOCK = 10, 2000  # images that decide: 20,000
APART = 1_000_000  # images between those of two searches
CHOOSE, DECIDE = 100 * APART, 101 * APART  # where those begin that choose the best of the grid, and those that decide


class Bench:
    """The objective and the loss of a finished run, every score logged; of weights of every block, or shared ones."""

    def __init__(self, *, per_block: bool = False) -> None:
        params = read()
        self.N = run_params(params).N
        asked = replace(section(params, "merge_search", SearchParams), images=IMAGES, per_block=per_block)
        self.params = replace(asked, objective="frechet", extractors=())
        pretrained, vectors = Path("models/pretrained"), vector_files(Path(f"models/n{self.N}/vectors"))
        reference = Path("data/reference/train.safetensors")
        self.task = SearchTask.of(params, self.params, pretrained, vectors, reference, Path("data/examples"))
        self.work = work_dir("benchmark-search", self.task.identity, __file__)
        self.log = TrialLog(self.work / f"trials{'-per-block' * per_block}.csv", self.task.loss.model.weights)

    def score(self, w: Weights, first: int, images: int) -> float:
        """The Fréchet distance of these images."""
        trial = Trial("search", first, images, w)
        return self.log.score(trial, lambda: self.task.objective(w, SeedBlock.SEARCH, first, images))

    def loss(self, w: Weights, first: int, images: int) -> float:
        """The denoising loss on these draws."""
        trial = Trial("loss", first, images, w)
        return self.log.score(trial, lambda: self.task.loss.value(w, SeedBlock.SEARCH, first, images))

    def blocks(self, w: Weights, at: int) -> np.ndarray:
        """Scores on the blocks that begin at CHOOSE or DECIDE, [BLOCKS]."""
        return np.array([self.score(w, at + k * BLOCK, BLOCK) for k in range(BLOCKS)])

    def fits(self, changes: Mapping[str, Any]) -> bool:
        """Whether a search can be made with these params."""
        try:
            check_search(self.N, replace(self.params, **changes))
        except InputError:
            return False
        return True

    def search(self, changes: Mapping[str, Any], seed: int) -> tuple[Weights, float]:
        """What a method nominates first, and the images that it spent."""
        params = replace(self.params, **changes, seed=seed)
        n, first = params.images, (seed + 1) * APART
        first_round = FirstRound(
            self.N, params,
            score=lambda w, k: self.score(w, first + k * n, n),
            loss=lambda w, k: self.loss(w, first + k * n, n),
            gradient=lambda w, k: self.task.slope(w, SeedBlock.SEARCH, first + k * n, n),
            steps=self.task.sampler.params.calls, groups=self.task.loss.model.groups,
        )  # fmt: skip
        return nominate(first_round)[0].weights, first_round.spent


def ground_truth(bench: Bench, values: list[float], finalists: int) -> tuple[Weights, pd.DataFrame]:
    """The best weights known, and the grid: its points with score and loss."""
    points, rows = itertools.product(values, repeat=bench.N), []
    for w in progress(points, total=len(values) ** bench.N, desc="grid", unit="point"):
        rows.append({"w": w, "score": bench.score(w, 0, bench.params.images), "loss": bench.loss(w, 0, 2000)})
    grid = pd.DataFrame(rows).sort_values("score", ignore_index=True)
    best = [
        bench.blocks(w, CHOOSE).mean() for w in progress(grid["w"].head(finalists), desc="its best again", unit="point")
    ]
    return grid["w"][int(np.argmin(best))], grid


def measure(bench: Bench, best: Weights, budgets: list[int], seeds: int) -> pd.DataFrame:
    """Method, budget, seed -> images spent, weights, change against w = 0, regret with its interval."""
    zero, rows, per_block = (0.0,) * bench.N, [], Bench(per_block=True)
    base, top = bench.blocks(zero, DECIDE), bench.blocks(best, DECIDE)
    methods: dict[str, tuple[Bench, dict[str, Any]]] = {method: (bench, {"method": method}) for method in METHODS}
    for method in ("surrogate", "gp"):
        methods[f"{method}, 1,500 images a trial"] = bench, {"method": method, "images": 1500}
    methods["gradient, per block"] = per_block, {"method": "gradient"}
    runs = [
        (name, budget, seed)
        for seed, budget, (name, (its, changes)) in itertools.product(range(seeds), budgets, methods.items())
        if its.fits(changes | {"budget": budget})
    ]
    for name, budget, seed in progress(runs, desc="methods", unit="search"):
        its, changes = methods[name]
        w, spent = its.search(changes | {"budget": budget}, seed)
        scores = its.blocks(w, DECIDE)
        change, regret = (paired_interval(scores, other) for other in (base, top))
        row: dict[str, Any] = {"method": name, "budget": budget, "seed": seed, "images": spent, "w": w}
        for key, interval in (("change", change), ("regret", regret)):
            for end in ("value", "low", "high"):
                row[f"{key}_{end}"] = 100 * getattr(interval, end) / base.mean()
        rows.append(row)
    return pd.DataFrame(rows)


def rank_interval(pairs: np.ndarray, draws: int = 2000) -> list[float]:
    """95 % interval of a rank correlation, by the bootstrap over the rows of [n, 2]."""
    random = np.random.default_rng(0)
    again = [spearmanr(*pairs[random.integers(len(pairs), size=len(pairs))].T).statistic for _ in range(draws)]
    return [float(end) for end in np.quantile(again, [0.025, 0.975])]


def summary(table: pd.DataFrame, grid_images: int) -> str:
    """A row a method and budget: mean over its seeds."""
    cells = []
    for (method, budget), runs in table.groupby(["method", "budget"], sort=False):
        near = (runs["regret_value"] <= 1) | (runs["regret_low"] <= 0)
        cells.append([
            str(method), f"{budget:,}", f"{runs['images'].mean():,.0f}", f"{runs['images'].mean() / grid_images:.3f}",
            f"{number(runs['change_value'].mean(), 1, '+')} [{number(runs['change_value'].min(), 1, '+')},"
            f" {number(runs['change_value'].max(), 1, '+')}]",
            number(runs["regret_value"].mean(), 1, "+"), f"{near.sum()} of {len(runs)}",
            f"{(runs['change_low'] > 0).sum()} of {len(runs)}",
        ])  # fmt: skip
    header = [
        "method", "budget", "images spent", "of the grid's", "change against w = 0, %<br>mean [best and worst seed]",
        "regret, %", "within 1 % or<br>not told apart", "worse than pretrained",
    ]  # fmt: skip
    return markdown(header, cells)


def draw(table: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    """Left: what each search gained on fresh images. Right: the grid's best points, as it saw them and as they are."""
    fig = Figure((10, 4.6), dpi=150, layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=[3, 2.2])
    names = list(dict.fromkeys(table["method"]))[::-1]
    budgets = sorted(table["budget"].unique())
    for k, budget in enumerate(budgets):
        runs = table[table["budget"] == budget]
        at = runs["method"].map(names.index) + 0.22 * (k - (len(budgets) - 1) / 2)
        left.plot(runs["change_value"], at, "o", markersize=4, alpha=0.8, label=f"{budget:,} images")
    left.axvline(0, color="0.55", linewidth=0.8, zorder=0)
    left.axvline(facts["best_change_percent"][0], color="0.55", linewidth=0.8, linestyle="--", zorder=0)
    left.set_yticks(range(len(names)), names)
    left.set_xlabel("change of the distance against w = 0, % (dashed: best of the grid)")
    left.set_title("What each search nominates first, on fresh images", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    seen = facts["grid_best_change_percent"]
    for key, label, style in (("first", "as the grid saw it", "o"), ("fresh", "on 20,000 fresh images", "s")):
        right.plot(range(1, len(seen[key]) + 1), seen[key], style, markersize=4, label=label)
    right.set(xlabel="rank among the grid's points", ylabel="change against w = 0, %")
    right.set_title("A grid's best are so partly by luck", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(OUT / "search.png", metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=float, nargs="+", default=[-0.5, 0.0, 0.5, 1.0, 1.5], help="of the grid")
    parser.add_argument("--finalists", type=int, default=20, help="points of the grid that are scored again")
    parser.add_argument("--budgets", type=int, nargs="+", default=[30000], help="images a search")
    parser.add_argument("--seeds", type=int, default=5, help="searches a method and budget")
    args = parser.parse_args()
    bench = Bench()
    with only_one(bench.work):
        measure_all(bench, args)


def measure_all(bench: Bench, args: argparse.Namespace) -> None:
    """Truth, methods, and the files of OUT."""
    best, grid = ground_truth(bench, args.values, args.finalists)
    table = measure(bench, best, args.budgets, args.seeds)
    images = len(grid) * bench.params.images
    base, top = bench.blocks((0.0,) * bench.N, DECIDE), bench.blocks(best, DECIDE)
    found = paired_interval(top, base)
    rank = spearmanr(grid["score"], grid["loss"]).statistic
    at_zero = grid.loc[grid["w"] == (0.0,) * bench.N].iloc[0]
    zero = at_zero["score"]
    better, head = grid[grid["score"] < zero], grid.head(args.finalists)
    first = bench.blocks((0.0,) * bench.N, CHOOSE).mean()
    fresh = [100 * (bench.blocks(w, CHOOSE).mean() / first - 1) for w in head["w"]]
    table.to_csv(OUT / "search.csv", index=False)
    facts = {
        "grid_points": len(grid), "grid_images": images, "best": list(best), "deciding_images": BLOCKS * BLOCK,
        "best_change_percent": [100 * x / base.mean() for x in (found.value, found.low, found.high)],
        "grid_best_change_percent": {"first": list(100 * (head["score"] / zero - 1)), "fresh": fresh},
        "rank_correlation_loss_frechet": float(rank),
        "points_better_than_pretrained": len(better),
        "rank_correlation_where_better_than_pretrained": float(spearmanr(better["score"], better["loss"]).statistic),
        "its_interval": rank_interval(better[["score", "loss"]].to_numpy()),
        "points_of_lower_loss_than_pretrained": int((grid["loss"] < at_zero["loss"]).sum()),
    }  # fmt: skip
    rows = [[*w, score, loss] for w, score, loss in grid[["w", "score", "loss"]].itertuples(index=False)]
    columns = [*(f"w{i + 1}" for i in range(bench.N)), "score", "loss"]
    pd.DataFrame(rows, columns=columns).to_csv(OUT / "search_grid.csv", index=False, float_format="%.6g")
    (OUT / "search.json").write_text(json.dumps(facts, indent=2) + "\n")
    (OUT / "search.md").write_text(summary(table, images) + "\n", encoding="utf-8")
    draw(table, facts)
    print(summary(table, images))


if __name__ == "__main__":
    run(main)
