"""Train a feature extractor of the zoo from its recipe: `python zoo/train_features.py zoo/digits-features`.

Writes config.json, model.safetensors and quality.json (accuracy on both parts) into the folder of the recipe.
"""

import json

import torch
from recipe import read_recipe

from deme_core.data.images import DataParams, Images, to_model
from deme_core.data.sources import read_parts
from deme_core.metrics.features import SmallClassifier
from deme_core.params import section
from deme_core.tensors import write_tensors


def main() -> None:
    folder, recipe = read_recipe(__doc__)
    data = section(recipe, "data", DataParams)
    parts = read_parts(data)
    config = recipe["classifier"]
    torch.manual_seed(config["seed"])
    x, y = to_model(parts["train"].pixels), parts["train"].labels
    size, epochs = config["batch_size"], config["epochs"]
    architecture = {"channels": x.shape[1], "width": config["width"], "classes": int(y.max()) + 1}
    architecture |= {"blocks": config["blocks"]} if "blocks" in config else {}
    model = SmallClassifier(**architecture)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["learning_rate"], weight_decay=config["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config["learning_rate"], epochs * -(-len(x) // size))
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(size):
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch], label_smoothing=0.1).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.eval()
    accuracy = {f"accuracy_{part}": share_right(model, images) for part, images in parts.items()}
    described = {"_class_name": "SmallClassifier"} | architecture
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    (folder / "quality.json").write_text(json.dumps(accuracy, indent=2) + "\n")
    write_tensors(folder / "model.safetensors", model.state_dict(), recipe)
    print(accuracy)


@torch.inference_mode()
def share_right(model: SmallClassifier, images: Images) -> float:
    batches = zip(*(tensor.split(500) for tensor in (images.pixels, images.labels)), strict=True)
    right = [model(to_model(pixels)).argmax(1) == labels for pixels, labels in batches]
    return torch.cat(right).float().mean().item()


if __name__ == "__main__":
    main()
