"""A window in the browser for merge weights: a slider a direction, base and merge beside each other on the same noise.

In the folder of a run it shows its models, what its searches found, and what they predict. It binds to this machine
alone, and asks no other one for anything.
"""

import argparse
import webbrowser
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from deme_core.command_line import command_line
from deme_core.errors import InputError
from deme_core.explore.experts import of_experts
from deme_core.explore.run import of_run
from deme_core.explore.server import Window
from deme_core.explore.session import Session
from deme_core.params import read
from deme_core.stage import run

EXAMPLES = ("", "--port 8000 --open", "--base sd --experts a b")
HOST, PORT = "127.0.0.1", 8765


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = command_line("python -m deme_core.explore", __doc__, *EXAMPLES)
    out.add_argument("--base", type=Path, metavar="DIR", help="θ, a pipeline; left out, the run of this folder")
    out.add_argument("--experts", type=Path, nargs="+", metavar="DIR", default=[], help="θ_1 … θ_N, finetuned from θ")
    out.add_argument("--host", default=HOST, help=f"address to bind to, default {HOST}: this machine alone")
    out.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0 takes a free one")
    out.add_argument("--open", action="store_true", help="open it in the browser of this machine, too")
    return out


def main() -> None:
    """Open the window, and serve it until Ctrl-C."""
    args = parser().parse_args()
    if bool(args.base) != bool(args.experts):
        raise InputError("--base and --experts belong together; without both the run of this folder is shown")
    with ExitStack() as stack:
        if args.base:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            source = of_experts(args.base, args.experts, folder)
        else:
            source = of_run(read())
        window = stack.enter_context(Window(Session(source), args.host, args.port))
        print(f"{source.title}: {window.address} (Ctrl-C ends it)", flush=True)
        if args.open:
            webbrowser.open(window.address)
        with suppress(KeyboardInterrupt):
            window.serve_forever()


if __name__ == "__main__":
    run(main)
