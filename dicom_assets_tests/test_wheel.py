"""The wheel, installed into an empty environment and used in an empty folder, with and without its extras."""

import re
import signal
import sqlite3
import subprocess
import sys
import venv
import zipfile
from contextlib import closing, contextmanager
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dicom_assets
from dicom_assets_tests.processes import PATIENCE_SECONDS, PROJECT, clean_environment, free_port

EXTRAS = {"pydicom", "starlette", "uvicorn", "pyspark", "polars"}
"""Modules of the extras; the webserver brings some of them, of an environment of runs alone."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of an environment that has the wheel, and the dependencies that this one has."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    program = folder / "bin" / "python"
    by_pip = [sys.executable, "-m", "pip", "--python", program, "install"]
    by_uv = ["uv", "pip", "install", "--python", program]
    installer = by_pip if find_spec("pip") else by_uv
    subprocess.run([*installer, "--quiet", "--no-deps", "--no-index", wheel], check=True, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Without the .pth files in there, of which one leads to the checkout.
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return program


@pytest.fixture
def here(tmp_path):
    """An empty folder to work in."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def without_extras(tmp_path_factory):
    """Variables with which Python finds only what `pip install dicom-assets` installs."""
    installed = find_required("dicom-assets")
    missing = {
        name for name, owners in packages_distributions().items() if not installed & set(map(canonicalize_name, owners))
    }
    return block(tmp_path_factory.mktemp("without_extras"), missing | EXTRAS)


def block(folder, modules):
    """Variables with which Python does not find the modules."""
    (folder / "sitecustomize.py").write_text(BLOCKER.format(missing=modules))
    return {"PYTHONPATH": str(folder)}


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def find_required(name, found=None):
    """The distributions that one requires, and those that these require, without any extra."""
    found = set() if found is None else found
    if (name := canonicalize_name(name)) not in found:
        found.add(name)
        try:
            requirements = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:  # for another system
            requirements = []
        for requirement in requirements:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                find_required(requirement.name, found)
    return found


def run(python, *arguments, cwd, **variables):
    """The process of a command of the environment, to its end."""
    return subprocess.run(
        [python.parent / "dicom-assets", *map(str, arguments)],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def environment(**variables):
    return clean_environment(COLUMNS="160", NO_COLOR="1", TERM="dumb", **variables)


DG = "from dagster_dg_cli.cli import main; main()"


def run_dg(python, *arguments, cwd):
    """A command of `dg` in a project whose package Python finds, as once it is installed; to its end."""
    return subprocess.run(
        [python, "-c", DG, *arguments],
        cwd=cwd,
        env=environment(PYTHONPATH=str(cwd / "src")),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@contextmanager
def running(python, *arguments, cwd, until):
    """A command of the environment, once its output has a text; and the output until then."""
    command = [python.parent / "dicom-assets", *arguments]
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        said = ""
        try:
            for line in process.stdout:
                said += line
                if until in line:
                    break
            assert until in said, said
            yield said
        finally:
            process.send_signal(signal.SIGTERM)
            said += process.stdout.read()
        assert process.wait(PATIENCE_SECONDS) == 0, said


def test_wheel_carries_what_it_speaks_of_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in ("dagster.yaml", "workspace.yaml"):
            assert archive.read(f"dicom_assets/{name}") == (PROJECT / name).read_bytes()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        extras = set(re.findall(r"^Provides-Extra: (.*)$", archive.read(metadata).decode(), re.MULTILINE))
    assert {"emulator", "spark", "polars", "cluster", "celery"} <= extras
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"dicom_assets"}
    tracked = subprocess.run(
        ["git", "ls-files", "dicom_assets"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if tracked.returncode == 0:
        assert names >= set(tracked.stdout.split())
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_is_what_is_imported(python, here):
    code = "import dicom_assets; print(dicom_assets.__file__)"
    found = subprocess.run([python, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(python.parents[1])


def test_demo_runs_in_an_empty_folder(python, here):
    ran = run(python, "demo", "--hours", 2, "--instances", 40, cwd=here)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "dicom-assets dev" in ran.stdout
    assert "dicom-assets init" in ran.stdout
    assert "make " not in ran.stdout
    assert (here / ".dagster" / "dagster.yaml").read_bytes() == (PROJECT / "dagster.yaml").read_bytes()
    asked = run(python, "sql", "SELECT count(*) AS n FROM instance", "--format", "csv", cwd=here)
    assert int(asked.stdout.split()[1]) > 0, asked.stderr


@pytest.mark.deep
def test_dev_runs_in_an_empty_folder(python, here):
    ports = ["--port", str(free_port()), "--service-port", "0"]
    with running(python, "dev", *ports, "--hours", "1", "--instances", "10", cwd=here, until="Ctrl-C stops") as said:
        assert "Dagster's UI" in said


@pytest.mark.parametrize("command", [["demo"], ["dev"], ["emulator", "--bundled"]])
def test_command_without_its_extra_names_the_extra(python, here, without_extras, command):
    ran = run(python, *command, cwd=here, **without_extras)
    assert ran.returncode == 2, ran.stderr
    assert 'pip install "dicom-assets[emulator]"' in ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        (["--help"], 0, "emulator"),
        (["init", "imaging_lake"], 0, "imaging_lake"),
        (["sql", "SELECT count(*) AS n FROM study"], 1, "DICOM_STORAGE_URL"),
        (["changes", "study", "--since", "beginning"], 1, "DICOM_STORAGE_URL"),
        (["maintain"], 0, "no table yet"),
        (["doctor"], 1, "DICOM_SERVICE_URL"),
        (["adopt"], 1, "DAGSTER_HOME"),
        (["fabric-shortcuts"], 1, "DICOM_STORAGE_URL"),
    ],
)
def test_command_works_without_extras(python, here, without_extras, command, status, told):
    ran = run(python, *command, cwd=here, **without_extras)
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert told in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_spark_without_its_client_names_the_extra(python, here, without_extras):
    service = {"DICOM_SERVICE_URL": "http://127.0.0.1:1", "DICOM_START_TIME": "2026-03-01T00:00Z"}
    engine = {"DICOM_MERGE_ENGINE": "spark", "DICOM_SPARK_REMOTE": "sc://127.0.0.1:1"}
    ran = run(python, "doctor", "engine.merge", cwd=here, **service, **engine, **without_extras)
    assert ran.returncode == 1
    assert "dicom-assets[spark]" in ran.stdout


def test_demo_on_spark_without_its_client_names_the_extra(python, here):
    engine = {"DICOM_MERGE_ENGINE": "spark", "DICOM_SPARK_REMOTE": "sc://127.0.0.1:1"}
    ran = run(python, "demo", "--hours", 1, "--instances", 5, cwd=here, **engine, **block(here.parent, {"pyspark"}))
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert "dicom-assets[spark]" in ran.stderr
    assert "Traceback" not in ran.stderr


has_component = pytest.mark.skipif(not hasattr(dicom_assets, "DicomLakeComponent"), reason="needs the component")


@pytest.fixture
def project(python, here):
    """A new project."""
    created = run(python, "init", "imaging_lake", cwd=here)
    assert created.returncode == 0, created.stderr
    return here / "imaging_lake"


@has_component
def test_new_project_is_accepted_by_dg(python, project):
    checked = run_dg(python, "check", "defs", cwd=project)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@has_component
@pytest.mark.deep
def test_new_project_reads_the_service_of_its_env_and_keeps_its_history(python, here, project):
    listed = run_dg(python, "list", "defs", "--json", cwd=project)
    assert "dicom/file_index" in listed.stdout, listed.stderr
    history = ["--port", "0", "--synthesize", "40", "--hours", "2", "--start", "2026-03-01T00:00Z"]
    with running(python, "emulator", *history, cwd=here, until="DICOM_SERVICE_URL=") as said:
        (project / ".env").write_text("\n".join(re.findall(r"DICOM_\w+=\S+", said)))
        launch = ["launch", "--assets", 'key:"dicom/*"', "--partition", "2026-03-01-00:00"]
        launched = run_dg(python, *launch, cwd=project)
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert (project / "data" / "dicom" / "instance" / "_delta_log").is_dir()
    with closing(sqlite3.connect(next((project / ".dagster" / "storage").rglob("runs.db")))) as runs:
        assert runs.execute("SELECT status FROM runs").fetchall() == [("SUCCESS",)]
