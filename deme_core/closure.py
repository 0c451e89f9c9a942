"""The code that a result depends on: a file, the modules of this package that it imports, those that these import, …"""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def closure(file: Path, package: Path = PACKAGE) -> list[Path]:
    """The file and every module of the package that it imports, anywhere in it, and those that these import, and so on.

    Nothing is imported to find out. The `__init__` files are left out: they hold a docstring only.
    """
    found, todo = set[Path](), {file.resolve()}
    while todo:
        found.add(one := todo.pop())
        todo |= imported(one, package) - found
    return sorted(found)


def imported(file: Path, package: Path = PACKAGE) -> set[Path]:
    """The modules of the package among a file's imports."""
    found = set()
    for name in names(file.read_text(encoding="utf-8")):
        for module in (name, name.rpartition(".")[0]):  # `from a.b import c`: c is a module, or stands in one
            path = package.parent.joinpath(*module.split(".")).with_suffix(".py")
            if package in path.parents and path.is_file():
                found.add(path)
    return found


@cache
def names(source: str) -> frozenset[str]:
    """Every dotted name that a file's text imports, anywhere in it; `from a import b` gives a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import: {ast.unparse(node)}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)
