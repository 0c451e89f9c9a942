"""The model card of a merged pipeline."""

from typing import Any


def model_card(recipe: dict[str, Any]) -> str:
    """Markdown with the front matter that the Hugging Face hub reads; the same text for the same recipe."""
    weights = ", ".join(f"{w:g}" for w in recipe["weights"])
    return f"""---
library_name: diffusers
tags: [diffusion, model-merging, deme]
---

# Merged with DeMe

One diffusion model, θ + Σ wᵢτᵢ, from a pretrained θ and the task vectors τᵢ of {len(recipe["weights"])} copies that
were finetuned on their own timestep ranges (Decouple-then-Merge, Eq. 8). Same architecture, parameters and cost as θ.

- weights w: {weights}
- θ (SHA-256 of its tensors): `{recipe["base_sha256"]}`
- method: {recipe["method"]}

`merge.json` holds the full recipe.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")
```
"""
