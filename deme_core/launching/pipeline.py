"""The pipeline as DVC sees it: which stages there are, what each waits for, and whether it has changed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from deme_core.errors import InputError
from deme_core.naming import brief


@contextmanager
def refused() -> Iterator[None]:
    """What DVC refuses ends in one line."""
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        raise InputError(f"dvc: {brief(error)}") from error


class Pipeline:
    """What `dvc repro TARGETS` would go through."""

    def __init__(self, targets: Sequence[str] = ()):
        """Ask DVC.

        Args:
            targets: as `dvc repro` takes them; none: all stages of dvc.yaml in this folder.

        Raises:
            InputError: this is no DVC repository, a target is unknown, dvc.yaml is wrong, or another DVC is at work.
        """
        from dvc.dvcfile import PROJECT_FILE
        from dvc.repo import Repo, lock_repo
        from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

        with refused():
            self.repo = Repo()
            with lock_repo(self.repo):
                stages = collect_stages(self.repo, targets or [PROJECT_FILE])
                graph = get_active_graph(self.repo.index.graph)
                plan = plan_repro(graph, stages) if stages else []  # of no stages DVC would plan them all
        self.stages = {stage.addressing: stage for stage in plan}
        self.needs = {
            name: [need.addressing for need in graph.successors(stage)] for name, stage in self.stages.items()
        }

    def settled(self) -> set[str]:
        """The stages that have not changed, nor has any that they need; none where DVC cannot tell at once."""
        from dvc.exceptions import DvcException
        from dvc.repo import lock_repo

        found = set[str]()
        with suppress(DvcException), lock_repo(self.repo):
            for name, needs in self.needs.items():
                if found.issuperset(needs) and not self.stages[name].changed():
                    found.add(name)
        return found

    def changed(self, name: str) -> bool:
        """Whether DVC would run a stage, or fetch its outputs from the cache; what it needs must be up to date.

        True where DVC cannot tell at once, since it is at work elsewhere: the run will.
        """
        from dvc.exceptions import DvcException
        from dvc.repo import lock_repo

        try:
            with lock_repo(self.repo):
                return bool(self.stages[name].changed())
        except DvcException:
            return True
