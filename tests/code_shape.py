"""Modules and stages as they are, for the tests of the code's shape."""

from conftest import REPOSITORY

STAGES = sorted((REPOSITORY / "stages").glob("*.py"))

MODULES = {
    path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted((REPOSITORY / "deme_core").rglob("*.py"))
}

NAMES = {path: module for module, path in MODULES.items()}

INITS = [path for path in MODULES.values() if path.name == "__init__.py"]
