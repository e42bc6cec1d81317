"""The four folders install as one package: a new subfolder or data file must be listed by hand."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {"bettyc": "bettyc", "grammar": "bettyc.grammar", "kernels": "bettyc.kernels",
           "runtime": "bettyc.runtime"}  # fmt: skip
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def package_of(path: Path) -> str:
    """The installed name of a folder of the checkout."""
    first, *rest = path.relative_to(ROOT).parts
    return ".".join([FOLDERS[first], *rest])


def folders() -> list[Path]:
    """Every folder with Python files, links not followed."""
    found = {p.parent for name in FOLDERS for p in (ROOT / name).rglob("*.py")}
    return sorted(p for p in found if not any(q.is_symlink() for q in (p, *p.parents)))


def test_every_package_is_listed() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(package_of(p) for p in folders())


def test_every_package_has_an_init_file() -> None:
    assert [p for p in folders() if not (p / "__init__.py").is_file()] == []


def data_files() -> list[tuple[Path, Path]]:
    """Files that are no Python, each with the package folder that it lies in."""
    packages = set(folders())
    found = []
    for name in FOLDERS:
        for file in (ROOT / name).rglob("*"):
            if file.is_file() and not file.name.endswith((".py", ".pyc")):
                found.append((next(p for p in file.parents if p in packages), file))
    return found


def test_every_data_file_is_matched() -> None:
    patterns = SETUPTOOLS["package-data"]
    missing = [
        str(file.relative_to(ROOT))
        for folder, file in data_files()
        if not any(
            fnmatch(file.relative_to(folder).as_posix(), pattern)
            for pattern in patterns.get(package_of(folder), [])
        )
    ]
    assert missing == []


def test_every_pattern_matches_a_file() -> None:
    places = {package_of(p): p for p in folders()}
    for name, patterns in SETUPTOOLS["package-data"].items():
        for pattern in patterns:
            assert list(places[name].glob(pattern)), f"{name}: {pattern}"


def test_links_lead_to_the_folders() -> None:
    for name in ("grammar", "kernels", "runtime"):
        assert (ROOT / "bettyc" / name).resolve() == ROOT / name


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(d for e in project["optional-dependencies"].values() for d in e),
    ]
    names = {d.split(">=")[0].split("[")[0] for d in wanted} - {"bettyc"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert names <= {line.split("==")[0] for line in lines if "==" in line}
