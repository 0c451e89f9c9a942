"""`dvc repro` with several stages at a time: whatever is ready runs, up to so many side by side.

DVC says which stages there are and what they need, and runs each, so that its cache, its run cache and dvc.lock are as
ever. A stage that fails stops those that need it; the rest goes on. Interrupt it at any time, and call it again.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

from deme_core.command_line import command_line
from deme_core.errors import InputError
from deme_core.launching.devices import cores, gpus, share
from deme_core.launching.pipeline import Pipeline
from deme_core.launching.walk import behind, steps, walk

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BUSY = re.compile(  # of DVC, and of a stage whose unfinished work one of the same content is at (deme_core/work.py)
    r"ERROR: .*(is busy, it is being blocked by|Unable to acquire lock)|error: .* is working on this already"
)
ADVICE = re.compile(  # what DVC says at the end of each call, and what `deme repro` says once or not at all
    r"\s*$|Use `dvc push` to send|(Updating|Generating) lock file 'dvc.lock'|Data and pipelines are up to date"
    r"|To track the changes with git|\s+git add |To enable auto staging|\s+dvc config core.autostage"
)
AGAIN, LONGEST = 2.0, 30.0  # seconds until a stage with another process in its way is tried again, more each time


class Side:
    """Stages side by side, each run by a DVC of its own; it collects what became of them."""

    def __init__(self, pipeline: Pipeline, jobs: int, devices: list[str], *, force: bool = False):
        """`devices`: GPUs, of which each job sees one; `force`: run what has not changed, too."""
        self.pipeline, self.jobs, self.devices, self.force = pipeline, jobs, devices, force
        self.ran, self.failed = list[str](), dict[str, str]()
        self.signals = list[int]()
        self.stopped = asyncio.Event()  # by the first of them
        self.groups = set[int]()
        self.looks = asyncio.Lock()
        self.settled = set[str]() if force else pipeline.settled()

    async def all(self) -> None:
        """Run what has to run."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.interrupt, number)
        await walk(self.pipeline.needs, self.stage, self.jobs, lambda: not self.signals)

    def interrupt(self, number: int) -> None:
        """Stop all as Ctrl-C stops `dvc repro`; the second time at once."""
        self.signals.append(number)
        self.stopped.set()
        for group in self.groups:
            self.stop(group)

    def stop(self, group: int) -> None:
        """Send a job what is due by now."""
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(group, signal.SIGINT if len(self.signals) == 1 else signal.SIGKILL)

    async def stage(self, name: str, slot: int) -> bool:
        """Run one, if it has changed; whether it is up to date then."""
        if name in self.settled:
            return True
        if not self.force:
            async with self.looks:  # DVC is not made for threads: one at a time
                if not await asyncio.to_thread(self.pipeline.changed, name):
                    return True
        tries = 0
        while not self.signals:
            status, said = await self.run(name, slot)
            if not status or not any(BUSY.match(line) for line in said):
                if status:
                    of_stage = [line for line in said if line.startswith("error: ")]  # DVC's is less clear
                    self.failed[name] = [f"exit status {status}", *said, *of_stage][-1]
                elif f"Running stage '{name}':" in said:
                    self.ran.append(name)
                return status == 0
            if not tries:
                say(name, "waits for another process")
            tries += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), min(tries * AGAIN, LONGEST))
        return False

    async def run(self, name: str, slot: int) -> tuple[int, list[str]]:
        """The exit status of `dvc repro` of one stage, and the lines it said, which stand on the terminal by then."""
        more = ["--force"] if self.force else []
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *more, name,
            env=os.environ | share(slot, self.jobs, self.devices), start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout
        self.groups.add(process.pid)
        if self.signals:
            self.stop(process.pid)
        said = []
        async for line in lines(process.stdout):
            if not ADVICE.match(line):
                said.append(line)
                say(name, line)
        status = await process.wait()
        self.groups.remove(process.pid)
        return status, said


def say(name: str, line: str) -> None:
    """A line of a stage, on the terminal."""
    print(f"[{name}] {line}", flush=True)


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """A stream's lines as they come; what a bar writes over itself is one, too."""
    rest = b""
    while piece := await stream.read(1 << 16):
        *whole, rest = re.split(rb"\r\n|\n|\r", rest + piece)
        for line in whole:
            yield line.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


def order(pipeline: Pipeline, jobs: int) -> Iterator[str]:
    """A line for each step of a run whose stages all take equally long, without what need not run."""
    runs = pipeline.needs.keys() - pipeline.settled()
    among = {name: [need for need in needs if need in runs] for name, needs in pipeline.needs.items() if name in runs}
    yield from (f"{k:3}  {' '.join(names)}" for k, names in enumerate(steps(among, jobs), 1))
    yield f"{len(runs)} of {len(pipeline.needs)} stages, if each that runs changes all that need it"


def main() -> None:
    """Parse the command line, run, and tell what came of it."""
    parser = command_line(
        "python -m deme_core.launching.repro", __doc__, "--jobs 4", "--jobs 2 finetune_range task_vector@1", "--dry"
    )
    parser.add_argument("targets", nargs="*", help="as `dvc repro` takes them; none: the whole of dvc.yaml")
    parser.add_argument("--jobs", type=int, help="stages at a time; without it as many as there are GPUs, or cores")
    parser.add_argument("--force", action="store_true", help="run what has not changed, too")
    parser.add_argument("--dry", action="store_true", help="show what would run, step by step, and run nothing")
    args = parser.parse_args()
    devices = gpus()
    jobs = len(devices) or cores() if args.jobs is None else args.jobs
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: at least one stage runs at a time")
    pipeline = Pipeline(args.targets)
    if args.dry:
        print("\n".join(order(pipeline, jobs)))
        return
    side = Side(pipeline, jobs, devices, force=args.force)
    asyncio.run(side.all())
    print(f"{len(side.ran)} of {len(pipeline.needs)} stages ran")
    if side.signals:
        print(f"interrupted: {' '.join(side.failed) or 'nothing'} was stopped; call again to go on", file=sys.stderr)
        sys.exit(128 + side.signals[0])
    for name, reason in side.failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if stopped := behind(pipeline.needs, side.failed):
        print(f"not run, since they need it: {' '.join(stopped)}", file=sys.stderr)
    sys.exit(1 if side.failed else 0)


if __name__ == "__main__":
    from deme_core.stage import run

    run(main)
