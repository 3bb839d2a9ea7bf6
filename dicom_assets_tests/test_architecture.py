"""The page on the architecture: its walks name files and functions that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
QUESTIONS = "How a merge|How a page|How a token|Which columns|What starts|What a check"
WALKS = dict(re.findall(rf"^### ({QUESTIONS}).*\n\n((?:.+\n)+)", PAGE, re.M))
STEP = re.compile(r"^\d\. `([\w/]+\.py)`: (.*(?:\n   .*)*)", re.M)


def names_in(path: Path) -> set[str]:
    """Names of the functions, classes, methods and constants of a module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
            names |= {f"{node.name}.{each.name}" for each in ast.walk(node) if isinstance(each, ast.FunctionDef)}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_page_has_the_six_walks():
    assert len(WALKS) == 6


@pytest.mark.parametrize("walk", WALKS)
def test_walk_takes_three_files_at_most_and_names_what_is_there(walk):
    steps = STEP.findall(WALKS[walk])
    assert 1 <= len(steps) <= 3
    for path, text in steps:
        module = ROOT / "dicom_assets" / path
        named = {name.removesuffix("()") for name in re.findall(r"`([A-Za-z_][\w.]*(?:\(\))?)`", text)}
        assert named, path
        assert named <= names_in(module), path


def test_every_file_that_the_page_names_exists():
    prose = re.sub(r"<!-- generated: rooms .*?<!-- end of rooms -->", "", PAGE, flags=re.S)  # begins at a room's folder
    files = set(re.findall(r"`((?:\w+/)+\w+\.py)`", prose))
    assert files
    assert [file for file in sorted(files) if not (ROOT / "dicom_assets" / file).exists()] == []
