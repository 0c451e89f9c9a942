"""The command line of what is run by hand: named as it was called, with examples at the end of its help."""

import argparse
import re
import sys

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
