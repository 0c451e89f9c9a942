"""Train a CLIP model of captioned digits from its recipe: `python zoo/train_clip.py zoo/digits-clip`.

Writes a folder that open_clip loads by itself (config, weights in half precision, tokenizer), config.json, which makes
its image tower a feature extractor, the curve of the training loss, and quality.json.
"""

import json
import random
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import torch
from recipe import read_recipe
from torch.nn.functional import cross_entropy, normalize

from deme_core.data.digit_captions import PLAIN, WORDS
from deme_core.data.images import DataParams, Images
from deme_core.data.sources import read_parts
from deme_core.metrics.extractor import rgb
from deme_core.metrics.open_clip_models import CONFIG, WEIGHTS, load_open_clip
from deme_core.params import section
from deme_core.prompts.lines import read_lines
from deme_core.stage import run
from deme_core.tensors import write_tensors

NAMES = {name: label for label, word in enumerate(WORDS) for name in (word, str(label))}
SHAPES = ("thick", "thin", "left", "right")
OPPOSITE = {"thick": "thin", "thin": "thick", "left": "right", "right": "left"}
STRANGE = "…"  # in no vocabulary
LOG_EVERY = 50


def main() -> None:
    folder, recipe = read_recipe(__doc__, "data", "model", "preprocessing", "training", "quality")
    parts = read_parts(section(recipe, "data", DataParams))
    vocabulary = sorted({word for of_one in parts["train"].captions for text in of_one for word in text.split()})
    config = recipe["model"]
    config["text_cfg"] |= {"vocab_size": write_tokenizer(folder, vocabulary), "hf_tokenizer_name": folder.name}
    described = {"model_cfg": config, "preprocess_cfg": recipe["preprocessing"]}
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps({"_class_name": "CLIP", "source": str(folder)}, indent=2) + "\n")
    torch.manual_seed(recipe["training"]["seed"])
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    curve = train(model, tokenizer, parts["train"], recipe["preprocessing"], recipe["training"])
    pd.DataFrame(curve).to_csv(folder / "training.csv", index=False)
    state_dict = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    write_tensors(folder / WEIGHTS, state_dict, recipe)
    figures = quality(folder, parts, recipe["quality"])
    (folder / "quality.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(figures)


def write_tokenizer(folder: Path, words: list[str]) -> int:
    """A tokenizer of whole words and single digits; the number of its tokens, of which the last ends a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: k for k, word in enumerate(["[PAD]", "[UNK]", "[BOS]", *words, "[EOS]"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[(name, vocabulary[name]) for name in ("[BOS]", "[EOS]")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    described = {"tokenizer_class": "PreTrainedTokenizerFast"} | special
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")
    return len(vocabulary)


def train(model: Any, tokenizer: Any, images: Images, preprocessing: dict, config: dict) -> list[dict[str, float]]:
    """Contrastive training in which an image and a text of a batch match wherever the text is true of the image."""
    steps, size = config["steps"], config["batch_size"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["learning_rate"], weight_decay=config["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config["learning_rate"], steps)
    mean, std = (torch.tensor(preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
    facts = [said(" ".join(captions)) for captions in images.captions]
    draw = random.Random(config["seed"])
    curve, losses = [], []
    model.train()
    for step in range(1, steps + 1):
        index = torch.randperm(len(images))[:size]
        texts = [draw.choice(images.captions[k]) for k in index.tolist()]
        true = torch.tensor([[said(text) <= facts[k] for text in texts] for k in index.tolist()]).float()
        texts = [disturbed(text, draw) if draw.random() < config["disturbed"] else text for text in texts]
        x = (rgb(varied(images.pixels[index], config["shift"], config["noise"])) - mean) / std
        a, b = normalize(model.encode_image(x), dim=1), normalize(model.encode_text(tokenizer(texts)), dim=1)
        logits = model.logit_scale.exp().clamp(max=100) * a @ b.T
        target = [matrix / matrix.sum(1, keepdim=True) for matrix in (true, true.T)]
        loss = (cross_entropy(logits, target[0]) + cross_entropy(logits.T, target[1])) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if step % LOG_EVERY == 0:
            curve.append({"step": step, "loss": round(sum(losses) / len(losses), 4)})
            losses.clear()
            print(curve[-1], flush=True)
    return curve


def said(text: str) -> frozenset[str | int]:
    """What a caption says of its image: the label and the shape."""
    words = text.split()
    return frozenset(NAMES[word] for word in words if word in NAMES) | frozenset(
        word for word in words if word in SHAPES
    )


def disturbed(text: str, draw: random.Random) -> str:
    """The caption in strange company: plain words replaced, others put in between."""
    words = [STRANGE if not said(word) and draw.random() < 0.5 else word for word in text.split()]
    for _ in range(draw.randint(0, 8)):
        words.insert(draw.randint(0, len(words)), STRANGE)
    return " ".join(words)


def varied(pixels: torch.Tensor, shift: int, noise: float) -> torch.Tensor:
    """uint8 [n, C, H, W] -> float in [0, 1], each image moved by whole pixels, with noise of a level of its own."""
    size = pixels.shape[-1]
    padded = torch.nn.functional.pad(pixels.float() / 255, (shift,) * 4)
    corners = torch.randint(0, 2 * shift + 1, (len(pixels), 2)).tolist()
    moved = torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, corners, strict=True)])
    level = noise * torch.rand(len(pixels), 1, 1, 1)
    return (moved + level * torch.randn(moved.shape)).clamp(0, 1)


def quality(folder: Path, parts: dict[str, Images], config: dict) -> dict[str, float]:
    """How often the model on disk prefers a true text, on either part: among labels, free prompts, opposite shapes."""
    clip = load_open_clip(str(folder))
    tower = clip.extractor(folder.name)
    texts = {
        "label": [config["template"].format(word) for word in WORDS],
        "label_ensemble": [template.format(word=w, digit=k) for k, w in enumerate(WORDS) for template in PLAIN],
        "free_prompt": read_lines(Path(config["free"])),
    }
    figures = {}
    for part, images in parts.items():
        if not len(images):  # the recipe asks for no part `validation`
            continue
        features = normalize(torch.from_numpy(tower([images.pixels])), dim=1)
        for name, candidates in texts.items():
            scores = features @ normalize(clip.text_features(candidates), dim=1).T
            labels = torch.tensor([next(NAMES[w] for w in plain(text) if w in NAMES) for text in candidates])
            if name == "label_ensemble":
                scores, labels = scores.view(len(images), len(WORDS), -1).mean(2), torch.arange(len(WORDS))
            figures[f"{name}_{part}"] = (labels[scores.argmax(1)] == images.labels).float().mean().item()
        figures[f"shape_{part}"] = shape_accuracy(clip, features, images)
    return {key: round(value, 4) for key, value in figures.items()}


def plain(text: str) -> list[str]:
    return text.replace(",", " ").split()


def shape_accuracy(clip: Any, features: torch.Tensor, images: Images) -> float:
    """Share of all images' words of shape for which the last caption fits better than with the opposite word."""
    rows, true, false = [], [], []
    for k, captions in enumerate(images.captions):
        words = captions[-1].split()
        for word in SHAPES:
            if word in words:
                rows.append(features[k])
                true.append(captions[-1])
                false.append(" ".join(OPPOSITE[w] if w == word else w for w in words))
    right, wrong = (normalize(clip.text_features(texts), dim=1) for texts in (true, false))
    image = torch.stack(rows)
    return ((image * right).sum(1) > (image * wrong).sum(1)).float().mean().item()


if __name__ == "__main__":
    run(main)
