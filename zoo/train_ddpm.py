"""Train a base model of the zoo from its recipe: `python zoo/train_ddpm.py zoo/digits-ddpm`.

Writes a complete diffusers pipeline and the curve of the training loss into the folder of the recipe; resumable.
Every `snapshot_every` steps the EMA weights go to .checkpoints/zoo/, where `zoo/convergence.py` reads them.
"""

import pandas as pd
from recipe import read_recipe

from deme_core.data.examples import Pixels
from deme_core.data.images import DataParams
from deme_core.data.sources import read_parts
from deme_core.params import section
from deme_core.stage import run
from deme_core.tensors import write_tensors
from deme_core.training.scratch import ScratchParams, train_from_scratch
from deme_core.work import ROOT


def main() -> None:
    folder, recipe = read_recipe(__doc__, "data", "seed", "snapshot_every", "train")
    data = section(recipe, "data", DataParams)
    snapshots = ROOT / "zoo" / folder.name
    curve = train_from_scratch(
        section(recipe, "train", ScratchParams),
        Pixels(read_parts(data)["train"].pixels),
        folder,
        seed=recipe["seed"],
        snapshot=lambda step, model: write_tensors(snapshots / f"{step:06d}.safetensors", model.state_dict()),
        snapshot_every=recipe["snapshot_every"],
    )
    pd.DataFrame(curve).to_csv(folder / "training.csv", index=False)


if __name__ == "__main__":
    run(main)
