"""What the server tells the page: plain values that JSON takes."""

import base64
import io
import time
from typing import Any

import torch

from deme_core.dag import AWAY, RANGE, SELF
from deme_core.data.archive import to_pil
from deme_core.explore.asked import Asked
from deme_core.explore.prediction import NoPrediction
from deme_core.explore.session import Session
from deme_core.report.text import number
from deme_core.search.result import SearchResult

IMAGES, FROM_TEXT = 16, 2  # at first: of small models, of text-to-image pipelines
OBJECTIVES = {"frechet": "the Fréchet distance", "kid": "the kernel distance", "clip_score": "100 − the CLIP score"}


def opened(session: Session) -> dict[str, Any]:
    """What the page is made of: sliders, buttons, first values."""
    source = session.source
    sliders = [
        {"direction": one.name, "label": label, "low": one.bounds[0], "high": one.bounds[1]}
        for one in source.directions.each
        for label in one.labels
    ]
    results = {search.model: (search.directions, search.result) for search in source.searches}
    buttons = [
        {"label": label_of(*results[model]), "weights": values, "said": str(results[model][1])}
        for model, values in session.searched().items()
    ]
    if source.away is not None:
        said = f"the step away from own samples, at the set length {source.away:g}"
        buttons.append({"label": AWAY, "weights": source.directions.along(SELF, -source.away), "said": said})
    buttons.append({"label": "uniform", "weights": source.directions.uniform, "said": "1/N for each expert"})
    buttons.append({"label": "zero", "weights": [0.0] * len(sliders), "said": "the base itself"})
    return {
        "title": source.title, "sliders": sliders, "buttons": buttons, "steps": source.sampler.steps,
        "images": FROM_TEXT if session.text else IMAGES, "seed": 0, "text": session.text,
        "prompts": list(source.prompts[:FROM_TEXT]), "sampler": source.sampler.kind,
    }  # fmt: skip


def label_of(directions: tuple[str, ...], result: SearchResult) -> str:
    """Of the button that sets what a search found: DeMe's own is `searched`."""
    name = "searched" if directions == (RANGE,) else f"searched {directions[0] if len(directions) == 1 else 'jointly'}"
    return name if any(result.weights) else f"{name} (0)"


def shown(session: Session, asked: Asked) -> dict[str, Any]:
    """Both models' images as PNGs in data: addresses, the prediction, and the seconds that it took."""
    start = time.perf_counter()
    base, merged = session.images(asked)
    return {
        "base": [address(image) for image in base], "merged": [address(image) for image in merged],
        "prediction": predicted(session, asked), "seconds": time.perf_counter() - start,
    }  # fmt: skip


def predicted(session: Session, asked: Asked) -> dict[str, Any]:
    """The prediction for people, with its numbers where there is one."""
    try:
        found = session.predict(asked.weights)
    except NoPrediction as reason:
        return {"said": f"no prediction: {reason}"}
    change, unit, result = found.change, found.unit and f" {found.unit}", found.search.result
    value, low, high = (number(end, 1, "+") for end in (change.value, change.low, change.high))
    steps = session.source.sampler.steps
    return {
        "value": change.value, "low": change.low, "high": change.high,
        "said": f"{value}{unit} [{low}, {high}]", "of": OBJECTIVES.get(result.objective, result.objective),
        "by": f"a quadratic through {found.search.surrogate.trials} trials of the search {found.search.model}, which"
        f" samples with {steps} steps; 95 % interval of a trial",
    }  # fmt: skip


def address(image: torch.Tensor) -> str:
    """A PNG in a data: address. uint8 [C, H, W]."""
    file = io.BytesIO()
    to_pil(image).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
