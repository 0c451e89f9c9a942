"""CLIP score: how well each image fits its text (Hessel et al. 2021, arXiv 2104.08718)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deme_core.commits import commit_of, say_commit
from deme_core.errors import InputError
from deme_core.metrics.open_clip_models import OpenClip, load_open_clip


@dataclass(frozen=True, kw_only=True)
class ClipScoreParams:
    """Section `clip_score`."""

    model: str = "ViT-g-14"
    """A name that open_clip knows, with `pretrained`; or a folder or hub id in open_clip's format: then
    open_clip_config.json and open_clip_model.safetensors lie there."""
    pretrained: str | None = "laion2b_s12b_b42k"
    """open_clip's tag of weights for the name; null with a folder or hub id."""
    revision: str | None = None
    """Of a hub id: branch, tag or commit."""


class ClipScore:
    """100 · max(cos, 0) of the features of image and text: the usual scale, where Hessel et al. write 2.5."""

    def __init__(self, clip: OpenClip, name: str) -> None:
        self.clip = clip
        self.extractor = clip.extractor(name)

    @classmethod
    def of(cls, params: ClipScoreParams) -> "ClipScore":
        """The score by the model of `params`."""
        name = params.model if params.pretrained is None else f"{params.model}/{params.pretrained}"
        clip = load_open_clip(params.model, params.pretrained, params.revision)
        say_commit(name, clip.folder, "clip_score.revision")
        return cls(clip, name)

    @property
    def name(self) -> str:
        """The model and the beginning of its hash, for protocols."""
        return f"{self.extractor.name}-{self.extractor.sha256[:8]}"

    @property
    def commit(self) -> str | None:
        """Of a model from the hub."""
        return commit_of(self.clip.folder)

    def __call__(self, images: Iterable[torch.Tensor], texts: Sequence[str]) -> np.ndarray:
        """Scores float32 [n] in [0, 100] of a stream of images, uint8 [k, C, H, W], and one text an image.

        Raises:
            InputError: there are not as many images as texts, or features are not finite.
        """
        features = torch.from_numpy(self.extractor(images))
        if len(features) != len(texts):
            raise InputError(
                f"{len(features)} images but {len(texts)} texts; each image is scored against its own text"
            )
        distinct = list(dict.fromkeys(texts))
        row = {text: k for k, text in enumerate(distinct)}
        of_texts = self.clip.text_features(distinct)
        if bad := int((~of_texts.isfinite()).any(1).sum()):
            raise InputError(
                f"CLIP model {self.extractor.name}: {bad} of {len(distinct)} texts have features that are not finite;"
                " its weights are broken, so fetch them again"
            )
        paired = of_texts[[row[text] for text in texts]]
        return (100 * torch.cosine_similarity(features, paired).clamp(min=0)).numpy()
