"""Commands in this process: what a user sees, without the seconds that each would take to import torch."""

import contextlib
import io
import runpy
import sys
import warnings
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch


def command(*words: object) -> CompletedProcess[str]:
    """`python WORDS`, a module by -m or a script, and an argument or more."""
    first, *rest = map(str, words)
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "path", sys.path[:]),
        patch.object(sys, "argv", rest if first == "-m" else [first, *rest]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)  # which is what is wanted here
        try:
            if first == "-m":
                runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
            else:
                sys.path.insert(0, str(Path(first).parent))
                runpy.run_path(first, run_name="__main__")
        except SystemExit as end:  # with a text it is printed, and the status is 1
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            err.write(f"{end.code}\n" if isinstance(end.code, str) else "")
    return CompletedProcess(words, status, out.getvalue(), err.getvalue())
