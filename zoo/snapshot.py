"""A model that a training of the zoo passed on its way: `python zoo/snapshot.py zoo/fashion-mnist-16-ddpm-early`.

Writes a snapshot of `zoo/train_ddpm.py` as a pipeline into the folder of the recipe: `of`, the folder of the model, and
`step` of its training.
"""

from pathlib import Path

from recipe import read_recipe

from deme_core.checkpoints import copy_pipeline, denoiser_dir, save_denoiser
from deme_core.stage import run
from deme_core.tensors import read_tensors
from deme_core.work import ROOT


def main() -> None:
    folder, recipe = read_recipe(__doc__, "of", "step")
    of, file = Path(recipe["of"]), ROOT / "zoo" / Path(recipe["of"]).name / f"{recipe['step']:06d}.safetensors"
    if not file.is_file():
        raise SystemExit(f"{file}: no such snapshot; run python zoo/train_ddpm.py {of} in an empty .checkpoints/")
    copy_pipeline(of, folder, weights=False)
    denoiser = denoiser_dir(folder)
    save_denoiser(denoiser, denoiser, read_tensors(file), recipe)


if __name__ == "__main__":
    run(main)
