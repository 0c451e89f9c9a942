"""A stage's work as a SLURM job, by submitit: submitted, followed to its end, cancelled, found again.

SLURM knows all that is to be known of a job: its name says of which work it is. submitit's files lie in slurm_logs/,
and no result passes through them but the exit status.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deme_core.closure import closure
from deme_core.errors import InputError
from deme_core.launching.devices import PLACED, THREADS, VISIBLE, threads
from deme_core.launching.settings import FILE, Launch
from deme_core.naming import brief

LOGS = Path("slurm_logs")
LOOK, ASK = 0.5, 3.0  # seconds between two looks at a job's log, and two questions to SLURM
PATIENCE = 60.0  # seconds that a file of another machine may take to show up, and a cancelled job to end
BEFORE = 90  # seconds before the time limit at which the job is stopped and queued again
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "GONE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
         "TIMEOUT"}  # fmt: skip


class Work:
    """What the job does: a command. Queued again, it starts again, and the stage goes on from what it has saved."""

    def __init__(self, words: Sequence[str], processes: int, anew: Path, patience: float):
        """The command, and the processes that it starts.

        Args:
            anew: a file that whoever attaches to the job makes. What the command had written of its outputs by then is
                gone, so that it is done once more; training, search and sampling have all they need saved.
            patience: seconds that it has to save and end before it is queued again.
        """
        self.words, self.processes, self.anew, self.patience = list(words), processes, anew, patience

    def __call__(self) -> int:
        """The exit status of the command."""
        while True:
            self.anew.unlink(missing_ok=True)  # what is gone by now, the command has not written yet
            status = self._once()
            if not self.anew.exists():
                return status
            print("its outputs of before it was attached to are gone: done once more", flush=True)

    def _once(self) -> int:
        # SLURM signals each process of a job, while it is this one that has the command end: a launcher of several
        # processes would die of it before they have saved. What is ignored stays so in another program.
        env, number = os.environ | {PLACED: "slurm"} | threads(self.processes), preemption()
        self.child = subprocess.Popen(self.words, env=env, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
        while (status := self.child.poll()) is None:  # no `wait`: it holds a lock that `checkpoint` would need
            time.sleep(LOOK / 5)
        if status < 0:  # killed: by SLURM, which is about to end this as well, or by a lack of memory
            time.sleep(5)
            os._exit(128 - status)  # no result for the one that follows: the job may be queued again
        return status

    def checkpoint(self) -> Any:
        """What submitit asks for before a time limit or a preemption, from its handler of signals."""
        from submitit.helpers import DelayedSubmission

        self.child.terminate()  # a training saves its state now
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(timeout=self.patience)
        self.child.kill()
        return DelayedSubmission(Work(self.words, self.processes, self.anew, self.patience))


def preemption() -> int:
    """The signal that submitit has SLURM send."""
    from submitit.core.job_environment import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


def run_job(stage: str, words: Sequence[str], processes: int, launch: Launch) -> int:
    """Have a job do it, and follow that.

    Args:
        stage: as DVC calls it.
        words: the command, of a script in stages/.
        processes: that the command starts, which share the job's threads.

    Returns:
        The exit status of the command; 130 where this process was interrupted, and the job cancelled.

    Raises:
        InputError: there is no submitit or no SLURM, or SLURM refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise InputError(f"{FILE}: {stage}: run: slurm, and no sbatch is here; run this on a login node of the cluster")
    name = f"{stage}-{identity(words)}"
    stopped = list[int]()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: stopped.append(number))
    anew = (LOGS / stage / f"{name}.anew").absolute()
    if job := attached(stage, name):
        anew.touch()  # DVC has deleted all outputs before it started this process
        status = follow(job, LOGS / stage, stopped)
        if stopped or not anew.exists():
            return status
        print(f"SLURM job {job} has ended before it knew that its outputs are gone", flush=True)
    work = Work(words, processes, anew, 2 / 3 * seconds_before(launch))
    return follow(submitted(stage, name, work, launch), LOGS / stage, stopped)


def seconds_before(launch: Launch) -> int:
    """Its time limit, at which a job is signalled: a quarter of a short time."""
    return min(BEFORE, 15 * (launch.minutes or BEFORE))


def identity(words: Sequence[str]) -> str:
    """A hash of what the work depends on: its command, params.yaml, its code, and what DVC knows of its inputs."""
    import yaml

    script = Path("stages", next(word for word in words if word.startswith("stages.")).split(".")[1] + ".py")
    lock = Path("dvc.lock")
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"] if lock.is_file() else {}
    digest = hashlib.sha256(json.dumps(list(words)).encode())
    for file in (Path("params.yaml"), *closure(script)):
        digest.update(file.read_bytes() if file.is_file() else b"")
    stage = os.environ.get("DVC_STAGE")
    made = {out["path"]: out.get("md5") for name, one in stages.items() if name != stage for out in one.get("outs", ())}
    inputs = {path: md5 for path, md5 in made.items() if any(f"{path}/".startswith(f"{word}/") for word in words)}
    digest.update(json.dumps(inputs, sort_keys=True).encode())
    return digest.hexdigest()[:12]


def jobs() -> Iterator[tuple[str, str]]:
    """Id and name of each job of this folder that has not ended."""
    said = asked("squeue", "--noheader", "--me", "--format=%i\t%T\t%Z\t%j")
    for line in said.splitlines():
        number, job_state, folder, name = line.split("\t")
        if Path(folder) == Path.cwd() and job_state not in ENDED:
            yield number, name


def attached(stage: str, name: str) -> str | None:
    """The job of this very work that a killed submitter has left; another of the stage is cancelled."""
    found = None
    for number, known in jobs():
        if known == name and found is None:
            found = number
            print(f"attached to SLURM job {number}, which a run before this one has left", flush=True)
        elif known.rpartition("-")[0] == stage:
            print(f"SLURM job {number} is of other params, code or input: cancelled", flush=True)
            cancel(number)
    return found


def submitted(stage: str, name: str, work: Work, launch: Launch) -> str:
    """The id of a new job."""
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError:
        raise InputError(f"{FILE}: {stage}: run: slurm needs submitit; pip install 'deme[slurm]'") from None

    for share in (THREADS, VISIBLE):  # of this machine; sbatch would hand them on
        os.environ.pop(share, None)
    executor = SlurmExecutor((LOGS / stage).absolute(), max_num_timeout=launch.timeouts)
    asked_for = {
        "partition": launch.partition, "gpus_per_node": launch.gpus, "cpus_per_task": launch.cpus,
        "mem": launch.memory and f"{launch.memory * 1024:.0f}M", "time": launch.minutes,
    }  # fmt: skip
    setup = [f"export {THREADS}=${{SLURM_CPUS_PER_TASK:-1}}", *launch.setup]
    executor.update_parameters(
        **{key: value for key, value in asked_for.items() if value is not None}, job_name=name, setup=setup,
        additional_parameters=dict(launch.sbatch or {}), signal_delay_s=seconds_before(launch), stderr_to_stdout=True,
    )  # fmt: skip
    try:
        number: str = executor.submit(work).job_id
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        raise InputError(f"{FILE}: {stage}: SLURM refuses the job: {brief(error)}") from error
    print(f"SLURM job {number}: submitted", flush=True)
    return number


def follow(number: str, folder: Path, stopped: Sequence[int]) -> int:
    """Print a job's log as it comes; its exit status."""
    from submitit import SlurmJob

    job: SlurmJob[int] = SlurmJob(folder.absolute(), number)
    read, last, said = 0, 0.0, None
    while True:
        if stopped:
            cancel(number)
            print(f"SLURM job {number}: cancelled", flush=True)
            return 130
        ended = job.paths.result_pickle.exists()
        if not ended and time.monotonic() - last > ASK:
            job_state, last = state_of(number), time.monotonic()
            if job_state != said and job_state is not None:
                print(f"SLURM job {number}: {job_state.lower()}", flush=True)
            said, ended = job_state or said, job_state in ENDED
        read = show(job.paths.stdout, read)
        if ended:
            return status_of(job, said)
        time.sleep(LOOK)


def show(log: Path, read: int) -> int:
    """Print what has come to a log since so many bytes; how many there are now."""
    if not log.exists():
        return read
    with log.open("rb") as file:
        file.seek(read)
        more = file.read()
    sys.stdout.write(more.decode("utf-8", "replace"))
    sys.stdout.flush()
    return read + len(more)


def status_of(job: Any, job_state: str | None) -> int:
    """The exit status of a job that has ended."""
    end = time.monotonic() + (PATIENCE if job_state == "COMPLETED" else LOOK)
    while not job.paths.result_pickle.exists():
        if time.monotonic() > end:
            raise InputError(
                f"SLURM job {job.job_id} ended as {job_state} without a result; {job.paths.stdout} is its log."
                " Run again: what was saved is not lost"
            )
        time.sleep(LOOK)
    try:
        return int(job.result())
    except Exception as error:
        raise InputError(f"SLURM job {job.job_id} failed: {brief(error)}; {job.paths.stdout} is its log") from error


def state_of(number: str) -> str | None:
    """A job's state, as SLURM calls it; GONE where SLURM has forgotten it, None where it does not answer."""
    done = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--jobs", number, "--format=%T"], capture_output=True, text=True
    )
    if done.returncode:
        return "GONE" if "Invalid job id" in done.stderr else None
    return done.stdout.strip() or "GONE"


def cancel(number: str) -> None:
    """End a job, and wait until it has ended: it may be writing."""
    subprocess.run(["scancel", number], capture_output=True)
    end = time.monotonic() + PATIENCE
    while state_of(number) not in ENDED and time.monotonic() < end:
        time.sleep(LOOK)


def asked(*words: str) -> str:
    """The answer of a command of SLURM."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{words[0]} failed: {brief(done.stderr) or done.returncode}; is SLURM up?")
    return done.stdout
