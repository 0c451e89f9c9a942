"""The command `deme`: it hands over to one of the package, or of a checkout of the repository."""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from deme_core.command_line import DEME
from deme_core.errors import InputError


class Command(NamedTuple):
    """Something that is run by hand."""

    module: str
    """Its `main` parses the command line."""
    says: str
    checkout: bool = False
    """Whether it needs what lies beside the package in the repository."""


COMMANDS = {
    "repro": Command("deme_core.launching.repro", "dvc repro with several stages at a time"),
    "merge": Command("deme_core.merging.__main__", "merge models that were finetuned from one base"),
    "features": Command("deme_core.metrics.__main__", "features of a folder of real images, for Frechet distances"),
    "samplers": Command("deme_core.report.samplers", "which sampler suits a model, and do gains survive the others"),
    "explore": Command("deme_core.explore.__main__", "merge weights by hand, in a window of the browser"),
    "calls": Command("deme_core.report.calls", "how many network calls a model saves, of the rows of studies"),
    "check": Command("conf.check", "what an experiment needs, and what it will cost (in a checkout)", checkout=True),
    "study": Command("studies.run", "run a study of several training seeds (in a checkout)", checkout=True),
}


def main() -> None:
    """Parse the name of the command, and let it parse the rest."""
    parser = argparse.ArgumentParser(
        DEME, description="Decouple-then-Merge. The pipeline itself is run by DVC: dvc repro, dvc exp run.",
        epilog=f"{DEME} COMMAND --help shows its options, with an example",
    )  # fmt: skip
    names = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)
    for name, one in COMMANDS.items():
        names.add_parser(name, help=one.says, add_help=False)
    name = parser.parse_args(sys.argv[1:2]).name
    sys.argv = [f"{DEME} {name}", *sys.argv[2:]]
    command, root = COMMANDS[name], Path.cwd()
    elsewhere = command.checkout and not (root / command.module.replace(".", "/")).with_suffix(".py").is_file()
    if elsewhere and {"-h", "--help"} & set(sys.argv[1:]):
        print(f"usage: {DEME} {name} ...\n\n{command.says}\n\nIn a checkout of the repository this shows its options.")
        return

    from deme_core.stage import run  # torch, which takes seconds, only once the command is known

    def chosen() -> None:
        if elsewhere:
            raise InputError(
                f"{DEME} {name}: {root} is no checkout of the repository, which this command works on; go to one"
            )
        if command.checkout:
            sys.path[:0] = [str(root), str(root / "conf")]
        import_module(command.module).main()

    run(chosen)


if __name__ == "__main__":
    main()
