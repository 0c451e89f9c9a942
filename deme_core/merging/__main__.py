"""Merge diffusion models: θ + Σ w_i (θ_i − θ) of a base θ and the experts θ_i that were finetuned from it.

Folders are diffusers pipelines or plain U-Nets with safetensors weights, in one file or in shards. Tensors stream:
memory does not grow with the number of experts. The output appears whole or not at all, with a merge.json that
`--recipe` replays byte for byte and `--verify` checks.
"""

import argparse
import re
from functools import partial
from pathlib import Path
from typing import Any

from deme_core.checkpoints import denoiser_of, refuse_pickles, weights_file
from deme_core.command_line import blamed_on_options, command_line
from deme_core.errors import InputError
from deme_core.merging.hashing import Hasher
from deme_core.merging.hub import check_hub, push
from deme_core.merging.merge import Merge, write
from deme_core.merging.methods import METHODS, MergeParams
from deme_core.merging.output import check_out
from deme_core.merging.plan import plan
from deme_core.merging.replay import check_hashes, merge_params, read_merge, verify
from deme_core.merging.same_model import check_same_model, check_whole
from deme_core.stage import run

EXAMPLES = (
    "--base sd --experts a b --weights 0.3 0.7 --out merged",
    "--base sd --experts a b --method ties --density 0.2 --out merged",
    "--base sd --experts a b --recipe merged/merge.json --out again",
    "--verify merged --base sd --experts a b",
)
KEYS = {"weights": "--weights", "method": "--method", "density": "--density", "seed": "--seed", "blocks": "--block"}
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    methods = "; ".join(f"{name}: {row.source}" for name, row in METHODS.items())
    out = command_line("python -m deme_core.merging", __doc__, *EXAMPLES)
    out.add_argument("--base", type=Path, metavar="DIR", help="θ, a pipeline or a U-Net")
    out.add_argument("--experts", type=Path, nargs="+", metavar="DIR", default=[], help="θ_1 … θ_N, like θ")
    out.add_argument("--out", type=Path, metavar="DIR", help="folder of the merged model, of the kind of --base")
    how = out.add_argument_group("how")
    how.add_argument("--weights", type=float, nargs="+", metavar="w", help="w_1 … w_N; 1/N each if left out")
    how.add_argument("--method", choices=METHODS, help=f"default task_arithmetic. {methods}")
    how.add_argument("--density", type=float, metavar="d", help="ties, dare: share of each τ_i that is kept; default 1")
    how.add_argument("--seed", type=int, help="dare: what is dropped; default 0")
    how.add_argument("--block", action="append", nargs="+", metavar=("BLOCK", "w"),
                     help="per_block: own weights of a block, e.g. --block mid_block 0.1 0.9; repeatable")  # fmt: skip
    how.add_argument(
        "--dtype", choices=("float64", "float32", "float16", "bfloat16"), help="of the output; default that of θ"
    )
    how.add_argument("--max-shard-size", metavar="SIZE", help="of an output file, e.g. 5GB; default one file")
    how.add_argument("--recipe", type=Path, metavar="merge.json", help="all of the above from there; hashes must agree")
    how.add_argument("--allow-mismatch", action="store_true",
                     help="warn of another config, noise schedule, VAE or text encoder than θ's")  # fmt: skip
    what = out.add_argument_group("what to do")
    what.add_argument("--force", action="store_true", help="replace an earlier merge in --out")
    what.add_argument("--dry-run", action="store_true", help="sizes, memory and time to expect; nothing is written")
    what.add_argument(
        "--verify", type=Path, metavar="DIR", help="no merge: is DIR, and are inputs, as its merge.json says"
    )
    what.add_argument("--push-to-hub", metavar="REPO", help="upload the merged model to owner/name; off by default")
    return out


def main() -> None:
    """Parse, check, merge."""
    args = parser().parse_args()
    for folder in (args.base, *args.experts, args.verify):
        if folder and not folder.is_dir():
            what = "a file, not the folder that holds it" if folder.is_file() else "no such directory"
            raise InputError(f"{folder}: {what}; give a folder on this machine (`hf download OWNER/NAME` makes one)")
    if args.verify:
        verify(args.verify, args.base, args.experts)
        return
    if not (args.base and args.experts and (args.out or args.dry_run)):
        raise InputError("a merge needs --base, --experts and --out; --help shows examples")
    refuse_pickles(args.base)
    check_whole(args.base)
    if args.out:
        check_out(args.out, args.base, args.experts, args.force)
    named = {key: f"{args.recipe}: {key}" for key in KEYS} if args.recipe else KEYS
    with blamed_on_options("merge", named):
        weights, params, max_shard_size = _recipe(args) if args.recipe else _settings(args)
    if args.push_to_hub:
        check_hub(args.push_to_hub)
    base, *experts = (weights_file(denoiser_of(folder)) for folder in (args.base, *args.experts))
    with Hasher.running() as hasher:
        with blamed_on_options("merge", named):
            merge = Merge.of(hasher, base, experts, weights, params, experts=True, max_shard_size=max_shard_size)
        passed_over = check_same_model(args.base, args.experts, allow=args.allow_mismatch)
        if args.dry_run:
            print(plan(merge))
            return
        check = partial(check_hashes, args.recipe) if args.recipe else lambda made: None
        # In merge.json and on the model card.
        note = {"note": f"Merged with --allow-mismatch. {'. '.join(passed_over)}."} if passed_over else {}
        write(merge, args.base, args.out, note, check)
    if args.push_to_hub:
        push(args.out, args.push_to_hub)


Settings = tuple[list[float] | None, MergeParams, int | None]
SETTINGS = ("weights", "method", "density", "seed", "block", "dtype", "max_shard_size")


def _settings(args: argparse.Namespace) -> Settings:
    """Weights, method and shard size of the command line."""
    method = args.method or MergeParams().method
    blocks: dict[str, list[float]] = {}
    for block, *weights in args.block or ():
        if block in blocks:
            raise InputError(f"--block {block}: stands there twice; give each block's weights once")
        blocks[block] = _numbers(block, weights)
    given: dict[str, Any] = {"density": args.density, "seed": args.seed, "blocks": blocks or None}
    given = {name: value for name, value in given.items() if value is not None}
    for name in set(given) - set(METHODS[method].params):
        raise InputError(f"--{name.removesuffix('s')}: the method {method} does not read it; choose one that does")
    return args.weights, MergeParams(method=method, dtype=args.dtype, **given), _bytes(args.max_shard_size)


def _recipe(args: argparse.Namespace) -> Settings:
    """Those of a merge.json."""
    for name in SETTINGS:
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} and --recipe: the recipe says it; leave one of them out")
    recipe = read_merge(args.recipe)
    if "experts_sha256" not in recipe:
        raise InputError(f"{args.recipe}: a merge of task vectors by the pipeline; `dvc repro` makes it again")
    if len(recipe["experts_sha256"]) != len(args.experts):
        raise InputError(f"{args.recipe} names {len(recipe['experts_sha256'])} experts, {len(args.experts)} are given")
    weights = recipe["weights"] if METHODS[recipe["method"]].weighted else None
    return weights, merge_params(recipe), recipe["max_shard_size"]


def _numbers(block: str, texts: list[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise InputError(f"--block {block} {' '.join(texts)}: give a block and N numbers") from None


def _bytes(text: str | None) -> int | None:
    """5GB -> 5 · 10^9, as diffusers counts."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMG]B|)", text.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise InputError(f"--max-shard-size {text}: give a number of bytes, or one with KB, MB or GB, e.g. 5GB")
    return int(float(found[1]) * UNITS[found[2].upper()])


if __name__ == "__main__":
    run(main)
