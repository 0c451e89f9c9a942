"""A search of two processes: trials that do not need each other run side by side, and its files are those of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from searching import ALL

METHODS = [name for name in ALL if name not in ("loss", "gradient", "cmaes", "gp")]
SEARCHES = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from deme_core.processes import partial_state
from deme_core.search.search import search
from deme_core.search.trials import TrialLog
from deme_core.stage import run
from searching import OPTIMUM, STEPS, quadratic, search_params, space_of

out, methods = Path(sys.argv[1]), sys.argv[2:]

def main():
    for method in methods:
        calls = {"shared": [], "apart": []}

        def scored(how):
            def score(w, block, first, images):
                calls[how].append([block.name, first, images, *w])
                return quadratic(OPTIMUM)(w, block, first, images) + first / 7
            return score

        params = search_params(method=method, budget=120)
        log = TrialLog(out / method / "work.csv", 3)
        found = search(
            scored("shared"), None, 3, params, log, STEPS, space=space_of(params, 3), apart=scored("apart")
        )
        log.export(out / method / "trials.csv")
        (out / method / f"calls-{partial_state().process_index}.json").write_text(json.dumps(calls))
        if partial_state().is_main_process:
            (out / method / "result.json").write_text(json.dumps(asdict(found)))

run(main, shared=True)
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of processes -> folder of what they made."""
    folder = tmp_path_factory.mktemp("searches")
    (folder / "searches.py").write_text(SEARCHES)
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    for count in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if count > 1 else []
        done = subprocess.run(
            [sys.executable, *launch, "searches.py", str(count), *METHODS], cwd=folder, text=True, capture_output=True,
            env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    return {count: folder / f"{count}" for count in (1, 2)}


@pytest.mark.parametrize("method", METHODS)
def test_the_files_are_those_of_one_process(both: dict[int, Path], method: str) -> None:
    for name in ("trials.csv", "work.csv", "result.json"):
        one, two = ((both[count] / method / name).read_bytes() for count in (1, 2))
        assert one == two != b""


@pytest.mark.parametrize("method", METHODS)
def test_each_trial_is_scored_by_one_process_where_there_are_others(both: dict[int, Path], method: str) -> None:
    (one,), two = (
        [json.loads(file.read_text()) for file in sorted((both[count] / method).glob("calls-*.json"))] for count in both
    )
    assert one["apart"] == [] and two[0]["shared"] == two[1]["shared"]
    apart = [{tuple(call) for call in process["apart"]} for process in two]
    assert apart[0].isdisjoint(apart[1]) and len(apart[0]) == len(apart[1])
    whole = {tuple(call) for call in one["shared"]}
    assert apart[0] | apart[1] | {tuple(call) for call in two[0]["shared"]} == whole
    first = {call for calls in apart for call in calls if call[0] == "SEARCH"}
    assert bool(first) == (method != "tpe")  # each of whose trials follows from those before
    assert len(first) < 2 or len(two[0]["shared"]) < len(whole) / 2
    assert any(call[0] == "CONFIRM" for call in apart[1])
