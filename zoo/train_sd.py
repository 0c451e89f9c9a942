"""Train a small text-to-image pipeline from its recipe: `python zoo/train_sd.py zoo/digits-sd`.

Tokenizer, VAE, text encoder and denoiser, one after the other; a step that is finished or half done is not begun again.
Writes a complete StableDiffusionPipeline, the curves of the training losses, and quality.json: how often a classifier
reads the digit that was asked for. Every `snapshot_every` steps the denoiser's EMA weights go to .checkpoints/zoo/.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from clip_tokenizer import write_tokenizer
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.training_utils import EMAModel
from recipe import read_recipe
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from deme_core.checkpoints import noise_schedule
from deme_core.data.encode import EncodeParams, encode_parts
from deme_core.data.examples import load_examples
from deme_core.data.images import DataParams, Images, save_part, to_model
from deme_core.data.sources import read_parts
from deme_core.denoising import single
from deme_core.device import best_device
from deme_core.metrics.networks import SmallClassifier
from deme_core.params import section
from deme_core.progress import progress
from deme_core.sampling.generate import Sampler
from deme_core.sampling.settings import SamplerParams
from deme_core.seeds import SeedBlock, step_seed
from deme_core.stage import run
from deme_core.tensors import read_tensors, write_tensors
from deme_core.timesteps import TimestepRanges
from deme_core.training.job import Curve, Job
from deme_core.training.loop import train
from deme_core.training.resume import load_state, save_state
from deme_core.training.settings import TrainingParams
from deme_core.work import ROOT, only_one, work_dir

SAVE_EVERY = 250
INDEX = {
    "_class_name": "StableDiffusionPipeline", "feature_extractor": [None, None], "requires_safety_checker": False,
    "safety_checker": [None, None], "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
Loss = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


READ = (
    "data", "seed", "snapshot_every", "tokenizer", "autoencoder", "text_encoder", "denoiser", "quality", "sampler",
)  # fmt: skip


def main() -> None:
    folder, recipe = read_recipe(__doc__, *READ)
    parts = read_parts(section(recipe, "data", DataParams))
    captions = sorted({caption for of_image in parts["train"].captions or () for caption in of_image})
    words = write_tokenizer(folder / "tokenizer", captions, recipe["tokenizer"]["tokens"])
    curves = {
        "autoencoder": train_autoencoder(recipe, parts["train"], folder / "vae"),
        "text_encoder": train_text_encoder(recipe, parts["train"], folder, words),
    }
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    PNDMScheduler(**recipe["denoiser"]["noise_schedule"]).save_pretrained(folder / "scheduler")
    curves["denoiser"] = train_denoiser(recipe, parts, folder)
    for name, curve in curves.items():
        pd.DataFrame(curve).to_csv(folder / f"{name}.csv", index=False)
    (folder / "quality.json").write_text(json.dumps(quality(recipe, parts["heldout"], folder), indent=2) + "\n")


def train_autoencoder(recipe: dict[str, Any], images: Images, out: Path) -> Curve:
    """A VAE whose latents have deviation 1 once they are scaled; L1 loss, and a little divergence from N(0, 1)."""
    params = recipe["autoencoder"]
    torch.manual_seed(recipe["seed"])
    vae: Any = AutoencoderKL(**params["architecture"])

    def loss(index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        x = to_model(images.pixels[index])
        posterior = vae.encode(x).latent_dist
        drawn = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        return functional.l1_loss(vae.decode(drawn).sample, x) + params["divergence"] * posterior.kl().mean()

    curve = fit(vae, loss, len(images), params["training"], recipe, "autoencoder")
    with torch.inference_mode():
        latents = torch.cat([vae.encode(to_model(part)).latent_dist.mean for part in images.pixels.split(500)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    vae.save_pretrained(out)
    return curve


def train_text_encoder(recipe: dict[str, Any], images: Images, folder: Path, words: int) -> Curve:
    """A text encoder that, with an image tower, tells which caption of a batch belongs to which image (CLIP)."""
    params = recipe["text_encoder"]
    tokenizer: Any = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    tokens = recipe["tokenizer"]["tokens"]
    config = CLIPTextConfig(
        **params["architecture"], vocab_size=words, max_position_embeddings=tokens,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(recipe["seed"])
    towers = nn.ModuleDict({"text": CLIPTextModel(config), "image": image_tower(params["width"], config.hidden_size)})
    captions = [
        tokenizer(list(texts), padding="max_length", max_length=tokens, truncation=True, return_tensors="pt").input_ids
        for texts in images.captions or ()
    ]

    def loss(index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        which = torch.rand(len(index), generator=generator).tolist()
        ids = torch.stack([captions[k][int(u * len(captions[k]))] for k, u in zip(index.tolist(), which, strict=True)])
        text = functional.normalize(towers["text"](ids).pooler_output, dim=1)
        image = functional.normalize(towers["image"](to_model(images.pixels[index])), dim=1)
        scores, right = 10 * text @ image.T, torch.arange(len(index))
        return (functional.cross_entropy(scores, right) + functional.cross_entropy(scores.T, right)) / 2

    curve = fit(towers, loss, len(images), params["training"], recipe, "text_encoder")
    towers["text"].save_pretrained(folder / "text_encoder")
    return curve


def image_tower(width: int, features: int) -> nn.Module:
    """A small convolutional network: float [n, 1, H, W] -> [n, features]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1), nn.SiLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.SiLU(),
        nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.LazyLinear(features),
    )  # fmt: skip


def train_denoiser(recipe: dict[str, Any], parts: dict[str, Images], folder: Path) -> Curve:
    """The U-Net, by the loop that trains every model here, on the latents and embeddings of the training part."""
    params, work = recipe["denoiser"], ROOT / "zoo" / folder.name
    torch.manual_seed(recipe["seed"])
    unet: Any = UNet2DConditionModel(**params["architecture"])
    unet.save_config(folder / "unet")
    for part, images in parts.items():
        save_part(work / "images", part, images)
    encode_parts(folder, work / "images", EncodeParams(flips=False), work / "examples")
    examples = load_examples(work / "examples", "train")
    schedule = noise_schedule(params["noise_schedule"])
    job = Job(
        label="denoiser", ranges=TimestepRanges.equal(1, schedule.config.num_train_timesteps), seed=recipe["seed"],
        settings=section(params, "training", TrainingParams),
    )  # fmt: skip
    curve = train(
        unet, schedule, examples, job,
        work_dir("zoo-denoiser", job.identity(examples) | {"recipe": params}, __file__),
        snapshot=lambda step, model: write_tensors(work / f"{step:06d}.safetensors", model.state_dict()),
        snapshot_every=recipe["snapshot_every"],
    )  # fmt: skip
    unet.cpu().save_pretrained(folder / "unet")
    return curve


def fit(model: Any, loss: Loss, n: int, training: dict[str, Any], recipe: dict[str, Any], label: str) -> Curve:
    """Train by AdamW at a rate that falls as a cosine; `model` ends with its EMA weights. Resumable.

    Args:
        loss: (indices of the batch among `n` images, generator) -> the loss.
    """
    made_by = {key: recipe[key] for key in ("data", "seed", "tokenizer", label)}
    state_folder = work_dir(f"zoo-{label}", made_by, __file__)
    model.train()
    loss(torch.arange(2), torch.Generator().manual_seed(0))  # lazy layers learn their shapes
    steps, seed, curve, first = training["iterations"], recipe["seed"], [], 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=training["learning_rate"])
    ema = EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    with only_one(state_folder):
        if saved := load_state(state_folder, model, ema, optimizer):
            first, curve = saved["step"], [{key: row[key] for key in ("step", "loss")} for row in saved["curve"]]
        for step in progress(range(first + 1, steps + 1), desc=label, initial=first, total=steps, unit="step"):
            generator = torch.Generator().manual_seed(step_seed(seed, label, step))
            for group in optimizer.param_groups:
                group["lr"] = (
                    training["learning_rate"] * float(1 + torch.cos(torch.tensor(torch.pi * step / steps))) / 2
                )
            value = loss(torch.randint(n, (training["batch_size"],), generator=generator), generator)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(model.parameters())
            if step % SAVE_EVERY == 0 or step == steps:
                curve.append({"step": step, "loss": float(value)})
                save_state(state_folder, model, ema, optimizer, {"step": step, "curve": curve})
    ema.copy_to(model.parameters())
    model.eval()
    return curve


def quality(recipe: dict[str, Any], heldout: Images, folder: Path) -> dict[str, Any]:
    """Size of the parts, error of the VAE, and how often the classifier reads the digit that was asked for."""
    check, device = recipe["quality"], best_device()
    classifier = SmallClassifier(**classifier_config(Path(check["extractor"])))
    classifier.load_state_dict(read_tensors(Path(check["extractor"]) / "model.safetensors"))
    classifier.eval()
    unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=True)
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True).eval()
    asked = heldout.labels.repeat(-(-check["images"] // len(heldout)))[: check["images"]]
    base = section(recipe, "sampler", SamplerParams)

    @torch.inference_mode()
    def read_as(pixels: torch.Tensor) -> torch.Tensor:
        small = functional.avg_pool2d(to_model(pixels), pixels.shape[-1] // 8)
        return classifier(small).argmax(1)

    def right(guidance: float) -> float:
        sampler = Sampler.of(folder, replace(base, guidance=guidance), device, heldout.prompts)
        images = sampler.images(single(unet, device), SeedBlock.BASE, 0, check["images"])
        return float((read_as(images) == asked).float().mean())

    with torch.inference_mode():
        x = to_model(heldout.pixels)
        error = float((vae.decode(vae.encode(x).latent_dist.mean).sample - x).square().mean())
    return {
        "parameters": {
            name: sum(p.numel() for p in part.parameters()) for name, part in (("unet", unet), ("vae", vae))
        },
        "autoencoder_squared_error_heldout": error,
        "images": check["images"],
        "asked_digit_read": {str(guidance): right(guidance) for guidance in check["guidance"]},
        "asked_digit_read_in_real_images": float((read_as(heldout.pixels) == heldout.labels).float().mean()),
    }


def classifier_config(extractor: Path) -> dict[str, Any]:
    """The arguments of a SmallClassifier in the zoo."""
    config = json.loads((extractor / "config.json").read_text())
    return {key: value for key, value in config.items() if not key.startswith("_")}


if __name__ == "__main__":
    run(main)
