"""What a run needs, for the tests of artefacts: params of data and base, and what is found for them."""

from pathlib import Path

from deme_core.data.images import DataParams
from deme_core.metrics.features import FeatureParams
from deme_core.preflight.artefacts import Artefact, artefacts
from deme_core.training.scratch import PretrainParams


def data(source: str, path: object = None) -> DataParams:
    return DataParams(source=source, path=path and str(path), size=8, held_out=0.1)


def pretrain(source: object, revision: str | None = None) -> PretrainParams:
    return PretrainParams(source=str(source), revision=revision, train=None)


def one(found: list[Artefact], kind: str) -> Artefact:
    (artefact,) = [artefact for artefact in found if artefact.kind == kind]
    return artefact


def of_source(params: DataParams, folder: Path) -> list[Artefact]:
    """What the data need, without the model before them and the extractor after."""
    return artefacts(params, pretrain("x/y"), FeatureParams(extractor=str(folder)))[1:-1]
