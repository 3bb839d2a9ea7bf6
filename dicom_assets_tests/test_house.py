"""The house around the code: import directions, words, Dagster's own checks, generated documentation, make targets."""

import ast
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from pytest_socket import SocketConnectBlockedError

from dicom_assets.config.settings import describe_settings
from dicom_assets_tests.processes import PATIENCE_SECONDS, clean_environment

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PACKAGE = ROOT / "dicom_assets"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.fixture
def env(tmp_path):
    """An environment without settings, and with a home of its own for Dagster."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    return clean_environment(DAGSTER_HOME=str(home), DICOM_STORAGE_URL=str(tmp_path / "lake"), NO_COLOR="1")


def run(command, env=None):
    result = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    return result.returncode, result.stdout + result.stderr


def test_imports_go_downwards_only():
    status, output = run([BIN / "lint-imports", "--no-cache"])
    assert status == 0, output


PRIVATE = ("dicom_assets/defs/dagster_private.py", "dicom_assets_tests/dagster_private.py")
"""The only modules that import what Dagster keeps private, each name with its reason."""


def test_private_modules_of_dagster_are_imported_in_one_place():
    sources = (
        path
        for room in ("dicom_assets", "dicom_assets_tests", "bench", "docs")
        for path in ROOT.glob(f"{room}/**/*.py")
    )
    importing = {
        str(path.relative_to(ROOT))
        for path in sources
        if re.search(r"^\s*(from|import) dagster\w*\._", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert importing == set(PRIVATE)


BLOCKED = ("azure", "dagster", "deltalake", "httpx", "obstore", "pydantic", "pydicom", "starlette", "typer", "uvicorn")
IMPORT_WITHOUT = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
import dicom_assets
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, {package!r} + "."):
    importlib.import_module(module.name)
    print(module.name)
"""


@pytest.mark.parametrize(
    ("package", "blocked", "module"),
    [
        ("dicom_assets.core", BLOCKED, "dicom_assets.core.columns.schema"),
        ("dicom_assets.lake", ("dagster", "pydicom", "starlette", "typer"), "dicom_assets.lake.table.delta"),
        ("dicom_assets.service", ("dagster", "deltalake", "pydicom", "typer"), "dicom_assets.service.client"),
        ("dicom_assets.emulator", ("dagster", "deltalake", "httpx"), "dicom_assets.emulator.store.store"),
    ],
)
def test_room_can_be_imported_without(package, blocked, module):
    status, output = run([sys.executable, "-c", IMPORT_WITHOUT.format(package=package, blocked=blocked)])
    assert status == 0, output
    assert module in output.split()


OPENERS = ("How", "That", "The same", "Those", "What", "Where", "Whether", "Which", "Who", "Whose", "Why")
UNCLEAR = re.compile(r"(?i)\b(told|mends?|mended|brought to hold|of it|(?<!here )is no)\b")


def find_docstrings(path):
    """Every docstring with its line; strings below attributes included."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for owner in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for statement in owner.body if isinstance(owner, owners) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


def is_clear(text):
    return not text.startswith(tuple(f"{opener} " for opener in OPENERS)) and not UNCLEAR.search(text)


@pytest.mark.parametrize("room", sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()))
def test_docstrings_name_what_they_speak_of(room):
    assert not is_clear("What the lake was told.")
    unclear = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for line, text in find_docstrings(path)
        if not is_clear(text)
    ]
    assert unclear == []


def test_command_line_answers_help_without_dagster():
    code = "import sys, dicom_assets.cli.app; sys.exit('dagster' in sys.modules or 'deltalake' in sys.modules)"
    assert run([sys.executable, "-c", code]) == (0, "")


def test_dagster_loads_the_definitions_without_what_a_run_alone_needs():
    """Each of these takes as long to import as a good part of Dagster, in every process of it."""
    heavy = {"azure.identity", "httpx", "rich", "polars", "pydicom", "pyspark", "pandas", "starlette"}
    heavy |= {
        "duckdb",
        "urllib.request",
        "dagster._core.execution.backfill",
        "dicom_assets.query.files.instances",
        "dicom_assets.lake.spark.engine",
    }
    code = f"import sys, dicom_assets.definitions; print(*sorted({heavy} & set(sys.modules)))"
    assert run([sys.executable, "-W", "ignore", "-c", code]) == (0, "\n")


def test_dg_accepts_the_definitions(env):
    status, output = run([BIN / "dg", "check", "defs"], env)
    assert status == 0, output
    assert "All definitions loaded successfully" in output


def test_dagster_accepts_the_workspace(env):
    status, output = run([BIN / "dagster", "definitions", "validate", "--workspace", "workspace.yaml"], env)
    assert status == 0, output
    assert "Validation successful for code location dicom_assets" in output


def test_generated_documentation_is_fresh():
    status, output = run([sys.executable, "docs/generate.py", "--check"])
    assert status == 0, output


def test_every_setting_that_is_documented_exists():
    variables = {row.variable for row in describe_settings()}
    for document in DOCUMENTS:
        named = set(re.findall(r"\b(?:DICOM|AZURE)_[A-Z_]+\b", document.read_text(encoding="utf-8")))
        assert named <= variables, document.name


def test_documents_name_files_and_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
        assert [link for link in links if not (document.parent / link).exists()] == [], document.name
        assert set(re.findall(r"\bmake ([a-z][a-z-]+)(?=`|\s+#|$| ARGS| TEST_ARGS)", text, re.MULTILINE)) <= targets


def test_links_to_sections_lead_to_headings():
    for document in DOCUMENTS:
        for page, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", document.read_text(encoding="utf-8")):
            target = document.parent / page if page else document
            text = re.sub(r"^```.*?^```", "", target.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{document.name}: {page}#{anchor}"


def test_index_of_the_documentation_names_every_page():
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert pages == set(re.findall(r"^\| \[[^]]*\]\(([a-z]+\.md)\) \|", text, re.MULTILINE))


def test_make_lists_every_target():
    status, output = run([shutil.which("make") or "make"])
    assert status == 0, output
    assert {"demo", "dev", "test", "test-deep", "check", "clean"} <= set(re.findall(r"^  make ([a-z-]+)", output, re.M))


def test_what_tests_start_can_be_stopped_where_tests_run_in_the_background():
    code = "import signal, dicom_assets_tests.conftest; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    assert run(["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", code]) == (0, "False\n")


def test_examples_may_take_any_time():
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check


def test_tests_never_leave_loopback():
    blocked = pytest.raises((SocketConnectBlockedError, UserWarning), match=r"192\.0\.2\.1")
    with blocked, socket.socket() as outside:
        outside.connect(("192.0.2.1", 80))  # an address that is nobody's (RFC 5737)
