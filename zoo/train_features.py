"""Train a small network whose features measure images: `python zoo/train_features.py zoo/digits-features`.

Writes config.json, model.safetensors and quality.json (accuracy, or the error of an autoencoder, on both parts) into
the folder of the recipe.
"""

import json
from typing import Any

import torch
from recipe import read_recipe
from torch.nn.functional import cross_entropy, pad

from deme_core.data.images import DataParams, Images, to_model
from deme_core.data.sources import read_parts
from deme_core.metrics.networks import NETWORKS
from deme_core.params import section
from deme_core.stage import run
from deme_core.tensors import write_tensors


def main() -> None:
    folder, recipe = read_recipe(__doc__, "data", "network", "training")
    parts = {part: images for part, images in read_parts(section(recipe, "data", DataParams)).items() if len(images)}
    network, training = recipe["network"], recipe["training"]
    torch.manual_seed(training["seed"])
    model = NETWORKS[network["_class_name"]](**{key: value for key, value in network.items() if key != "_class_name"})
    x, y = to_model(parts["train"].pixels), parts["train"].labels
    size, epochs = training["batch_size"], training["epochs"]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training["learning_rate"], weight_decay=training["weight_decay"]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training["learning_rate"], epochs * -(-len(x) // size))
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(size):
            seen = varied(x[batch], **training.get("augmentation", {}))
            loss(model(seen), seen, y[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.eval()
    found = {f"{name}_{part}": v for part, images in parts.items() for name, v in quality(model, images).items()}
    (folder / "config.json").write_text(json.dumps(network, indent=2) + "\n")
    (folder / "quality.json").write_text(json.dumps(found, indent=2) + "\n")
    write_tensors(folder / "model.safetensors", model.state_dict(), recipe)
    print(folder.name, found)


def loss(output: torch.Tensor, seen: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of logits, against the labels; of an image, against what the network saw."""
    if output.shape == seen.shape:
        return (output - seen).square().mean()
    return cross_entropy(output, labels, label_smoothing=0.1)


def varied(x: torch.Tensor, shift: int = 0, noise: float = 0.0) -> torch.Tensor:
    """Images moved by up to `shift` pixels each way, all of a batch alike, with normal noise of that deviation."""
    if shift:
        top, left = torch.randint(2 * shift + 1, (2,)).tolist()
        height, width = x.shape[-2:]
        x = pad(x, (shift,) * 4, value=-1.0)[..., top : top + height, left : left + width]
    return x + noise * torch.randn_like(x) if noise else x


@torch.inference_mode()
def quality(model: torch.nn.Module, images: Images) -> dict[str, Any]:
    right, error = 0, 0.0
    for pixels, labels in zip(images.pixels.split(500), images.labels.split(500), strict=True):
        x = to_model(pixels)
        output = model(x)
        if output.shape == x.shape:
            error += float((output - x).square().mean() * len(x))
        else:
            right += int((output.argmax(1) == labels).sum())
    return {"error": error / len(images)} if error else {"accuracy": right / len(images)}


if __name__ == "__main__":
    run(main)
