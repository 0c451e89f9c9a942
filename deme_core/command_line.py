"""The command line of what is run by hand: named as it was called, with examples at the end of its help."""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from deme_core.errors import InputError

DEME = "deme"  # the command that dispatches to all others, see __main__.py
NEGATIVE = r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"


def command_line(alone: str, description: str | None, *examples: str) -> argparse.ArgumentParser:
    """A parser that knows by which name it was called.

    Args:
        alone: the command without `deme`, such as `python -m deme_core.merging`.
        examples: what may stand behind the command.
    """
    program = sys.argv[0] if sys.argv[0].startswith(f"{DEME} ") else alone
    parser = argparse.ArgumentParser(
        program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["examples:", *(f"  {program} {words}" for words in examples)]),
    )  # fmt: skip
    # argparse's own pattern knows no exponent, and takes -5e-1 for an option.
    parser._negative_number_matcher = re.compile(NEGATIVE)
    return parser


def check_option(condition: bool, option: str, value: object, rule: str) -> None:
    """Refuse the value of an option in one line, with the rule and its remedy."""
    if not condition:
        raise InputError(f"{option} {value}: {rule}")


@contextmanager
def blamed_on_options(section: str, options: Mapping[str, str]) -> Iterator[None]:
    """Name the option where a param is refused that a command line gave: nobody of a params.yaml has written it.

    Args:
        section: that the params are of.
        options: key of the section -> the option that sets it.

    Raises:
        InputError: that from within, with the option in the place of the key.
    """
    try:
        yield
    except InputError as error:
        text = str(error)
        found = re.match(rf"(?:params: )?(?:{section}\.)?(\w+)(?:\.([^\s:]+))?(?: = |(: )| )", text)
        if not found or found[1] not in options:
            raise
        given = options[found[1]] + (f" {found[2]}" if found[2] else "")
        raise InputError(f"{given}{found[3] or ' '}{text[found.end() :]}") from error
