"""A SLURM of this machine in a folder of its own, on loopback, for the tests marked `slurm`.

Debian's packages slurm-wlm and munge; no systemd, nothing in /etc. What it starts it stops, by its pid files.
`python tests/local_slurm.py` says by its exit status whether one starts here.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
CONF = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmUser={user}
SlurmdUser={user}
SwitchType=switch/none
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def lacks() -> list[str]:
    """Programs that are not installed; Debian's daemons lie in /usr/sbin."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Started and up; what the environment of its commands says."""
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}{os.pathsep}/usr/sbin"}
    every = os.environ | environment
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    text = CONF.format(host=host, folder=folder, user=getpass.getuser(), control=free_port(), node=free_port())
    (folder / "slurm.conf").write_text(text)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    munge = [
        f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "log-file", "pid-file", "seed-file")
    ]
    try:
        subprocess.run(["munged", "--force", f"--key-file={key}", *munge], env=every, check=True, capture_output=True)
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon, "-f", folder / "slurm.conf"], env=every, check=True, capture_output=True)
        end = time.monotonic() + 60
        while (
            "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], env=every, capture_output=True, text=True).stdout
        ):
            assert time.monotonic() < end, (folder / "slurmctld.log").read_text()[-3000:]
            time.sleep(0.2)
        yield environment
    finally:
        subprocess.run(["scancel", "--me"], env=every, capture_output=True)
        time.sleep(1)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for name in ("slurmd.pid", "slurmctld.pid", "munge.pid"):
                with suppress(FileNotFoundError, ProcessLookupError, ValueError):
                    os.kill(int((folder / name).read_text()), number)
            time.sleep(2)  # they remove their pid files as they end


if __name__ == "__main__":
    if missing := lacks():
        sys.exit(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder, slurm(Path(folder)):
        pass
