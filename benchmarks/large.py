"""What benchmarks of large models share: a network of Stable Diffusion's architecture, and the peak of a process."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from deme_core.checkpoints import WEIGHTS, build_denoiser  # noqa: E402
from deme_core.preflight.public_models import STABLE_DIFFUSION_1  # noqa: E402
from deme_core.tensor_files import Tensors  # noqa: E402
from deme_core.tensors import stream_tensors  # noqa: E402


def config(scale: float) -> dict[str, Any]:
    """SD 1.x, its channels times `scale` in steps of 32."""
    whole = STABLE_DIFFUSION_1.denoiser
    return {**whole, "block_out_channels": [32 * max(1, round(scale * c / 32)) for c in whole["block_out_channels"]]}


def parameters(folder: Path) -> int:
    """Of the network in a folder."""
    with Tensors(folder / WEIGHTS) as theta:
        return sum(map(theta.numel, theta.layout))


def make_inputs(folders: list[Path], scale: float) -> None:
    """θ and the experts: float32, a tensor at a time."""
    with torch.device("meta"):
        state_dict = build_denoiser(config(scale)).state_dict()
    layout = {key: (torch.float32, tuple(value.shape)) for key, value in state_dict.items()}

    def noise(key: str, i: int) -> torch.Tensor:
        seed = int.from_bytes(hashlib.sha256(f"{key} {i}".encode()).digest()[:4], "little")
        return torch.randn(layout[key][1], generator=torch.Generator().manual_seed(seed))

    for i, folder in enumerate(folders):
        if not (folder / WEIGHTS).is_file():
            stream_tensors(
                folder / WEIGHTS, layout, lambda k, i=i: 0.05 * noise(k, 0) + (1e-3 * noise(k, i) if i else 0)
            )
            (folder / "config.json").write_text(json.dumps(config(scale)))


def measure(command: list[str], folders: list[Path]) -> dict[str, float]:
    """Wall and CPU seconds and peak memory (bytes) of a command whose inputs are not cached.

    Peak: VmHWM; pages of the process's own (RssAnon) and of mapped files (RssFile), sampled every 10 ms.
    """
    os.sync()
    for folder in folders:
        with (folder / WEIGHTS).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    peak = {"VmHWM": 0, "RssAnon": 0, "RssFile": 0}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.01):
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            for name in peak:
                peak[name] = max([peak[name], *(int(x.split()[1]) * 1024 for x in lines if x.startswith(name))])

    def drain() -> None:
        errors.append(process.stderr.read().decode()[-2000:])

    errors: list[str] = []
    threads = [threading.Thread(target=sample), threading.Thread(target=drain)]
    for thread in threads:
        thread.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    done.set()
    for thread in threads:
        thread.join()
    if status:
        raise SystemExit(f"{' '.join(command)}\n{errors[0]}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, **peak}
