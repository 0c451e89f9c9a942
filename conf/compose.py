"""Write params.yaml from conf/, as `dvc exp run` does."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from deme_core.command_line import command_line
from deme_core.errors import InputError
from deme_core.params import nearest
from deme_core.stage import run

CONF = Path(__file__).resolve().parent


def compose_params(overrides: list[str]) -> str:
    """The text of params.yaml for these Hydra overrides.

    Raises:
        InputError: one of them names no param, no file of a group, or is no override; or a value is refused.
    """
    sys.path.insert(0, str(CONF.parent / "hydra_plugins"))
    import resolvers  # noqa: F401 (registers `dag`)

    with initialize_config_dir(str(CONF), version_base=None):
        try:
            config = compose("config", overrides)
        except HydraException as error:
            known = [*_keys(OmegaConf.to_container(compose("config")))]
            names = [override.lstrip("+~").partition("=")[0] for override in overrides]
            unknown = next((name for name in names if name not in [*known, "experiment"]), None)
            reason = f"{unknown!r} is unknown{nearest(unknown, known)}" if unknown else " ".join(str(error).split())
            raise InputError(f"params: {reason}") from None
    if "baselines" not in config:  # `baselines=[]` takes no file of the group, `~baselines` leaves it out
        files = ", ".join(sorted(file.stem for file in (CONF / "baselines").glob("*.yaml")))
        raise InputError(f"params: baselines names no file of conf/baselines; give one of {files}")
    try:
        return OmegaConf.to_yaml(config, resolve=True)
    except InterpolationResolutionError as error:  # what a resolver refused, or a value that is none of its kind
        said = str(error).splitlines()[0]
        reason = said.partition("resolving interpolation: ")[2] or said
        raise InputError(reason if reason.startswith("params: ") else f"params: {reason}") from None


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
