"""Write params.yaml from conf/, as `dvc exp run` does."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError
from yaml import YAMLError

from deme_core.command_line import command_line
from deme_core.errors import InputError
from deme_core.params import nearest
from deme_core.stage import run

CONF = Path(__file__).resolve().parent
GROUPS = ("experiment", "baselines")


def compose_params(overrides: list[str]) -> str:
    """The text of params.yaml for these Hydra overrides.

    Raises:
        InputError: one of them names no param, no file of a group, or is no override; or a value is refused.
    """
    sys.path.insert(0, str(CONF.parent / "hydra_plugins"))
    import resolvers  # noqa: F401 (registers `dag`)

    check_groups(overrides)
    with initialize_config_dir(str(CONF), version_base=None):
        try:
            config = compose("config", overrides)
        except YAMLError as error:  # of a preset; what was read, and where it breaks off
            raise InputError(f"params: no valid YAML: {' '.join(str(error).split())}") from None
        except HydraException as error:
            known = [*_keys(OmegaConf.to_container(compose("config")))]
            names = [override.lstrip("+~").partition("=")[0] for override in overrides]
            unknown = next((name for name in names if name not in [*known, *GROUPS]), None)
            reason = f"{unknown!r} is unknown{nearest(unknown, known)}" if unknown else " ".join(str(error).split())
            raise InputError(f"params: {reason.partition(' Config search path')[0]}") from None
    if "baselines" not in config:  # `~baselines` leaves the group out
        raise InputError(f"params: baselines names no file of conf/baselines; give one of {_files('baselines')}")
    try:
        return OmegaConf.to_yaml(config, resolve=True)
    except InterpolationResolutionError as error:  # what a resolver refused, or a value that is none of its kind
        said = str(error).splitlines()[0]
        reason = said.partition("resolving interpolation: ")[2] or said
        raise InputError(reason if reason.startswith("params: ") else f"params: {reason}") from None


def check_groups(overrides: list[str]) -> None:
    """Refuse what names no file of a group; Hydra would answer with its search path."""
    for override in overrides:
        group, equals, value = override.lstrip("+").partition("=")
        if group in GROUPS and equals and not (CONF / group / f"{value}.yaml").is_file():
            remedy = f"name one of {_files(group)}, or write conf/{group}/mine.yaml and name mine"
            meant = nearest(value, _names(group))
            raise InputError(f"params: {group} = {value}: no file of conf/{group}{meant}; {remedy}")


def _files(group: str) -> str:
    return ", ".join(_names(group))


def _names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def asked(program: str, description: str | None, *examples: str) -> str:
    """The text of params.yaml for the overrides of a command line."""
    parser = command_line(program, description, *examples)
    parser.add_argument("overrides", nargs="*", help="of Hydra, as `dvc exp run -S` takes them; none: the default")
    return compose_params(parser.parse_args().overrides)


def main() -> None:
    """Write params.yaml beside conf/."""
    text = asked("python conf/compose.py", __doc__, "N=8 p=0.3", "experiment=cifar10")
    (CONF.parent / "params.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
