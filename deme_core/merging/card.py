"""The model card of a merged model."""

from typing import Any

from deme_core.merging.methods import METHODS


def model_card(recipe: dict[str, Any], loader: str) -> str:
    """Markdown with the front matter that the Hugging Face hub reads; the same text for the same recipe.

    Args:
        recipe: merge.json.
        loader: the class of diffusers that loads the folder.
    """
    row, weights = METHODS[recipe["method"]], ", ".join(f"{w:g}" for w in recipe["weights"])
    params = "".join(f"- {name}: {recipe[name]}\n" for name in row.params)
    note = f"\n{recipe['note']}\n" if recipe.get("note") else ""
    return f"""---
library_name: diffusers
tags: [diffusion, model-merging, deme]
---

# Merged with DeMe

One diffusion model from a pretrained θ and the task vectors τᵢ = θᵢ − θ of {len(recipe["weights"])} models that were
finetuned from it (Decouple-then-Merge). Same architecture, parameters and cost as θ.

- method: {row.source}
- weights w: {weights}
{params}- θ (SHA-256 of its tensors): `{recipe["base_sha256"]}`
- this model (SHA-256 of its tensors): `{recipe["output_sha256"]}`
{note}
`merge.json` holds the full recipe.

```python
from diffusers import {loader}

model = {loader}.from_pretrained(".")
```
"""
