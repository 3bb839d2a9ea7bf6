"""Runs the notebooks and saves them with their outputs: `make notebooks`."""

import shutil
from base64 import b64decode
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from examples.lake import HERE, LAKEHOUSE, build_lakehouse

NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
IMAGE = HERE.parent / "docs" / "images" / "studies-per-day.png"
"""Plot in the project's README, from the notebook of a department's questions."""

PATIENCE = dict.fromkeys(("startup_timeout", "timeout", "iopub_timeout"), 600)
"""Seconds for a kernel's start, a cell, and what it still says afterwards; on a busy machine."""


def run(notebook: NotebookNode) -> None:
    """Runs all cells in a kernel of their own, in this folder, and leaves nothing in them that changes by itself.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    with TemporaryDirectory() as folder:  # of the kernel's sockets; over TCP others on this machine could listen
        sockets = Config(ConnectionFileMixin={"transport": "ipc", "ip": f"{folder}/kernel"})
        where = {"metadata": {"path": str(HERE)}}
        NotebookClient(notebook, kernel_name="python3", config=sockets, resources=where, **PATIENCE).execute()
    notebook.metadata = NotebookNode(kernelspec=notebook.metadata.kernelspec, language_info=NotebookNode(name="python"))
    for cell in notebook.cells:
        cell.metadata = NotebookNode()


def setting_cell(notebook: NotebookNode) -> NotebookNode:
    """The one cell that differs from place to place: the first with code."""
    return next(cell for cell in notebook.cells if cell.cell_type == "code")


def first_picture(notebook: NotebookNode) -> bytes:
    """The PNG that is the first of a notebook's pictures."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return b64decode(next(output.data["image/png"] for output in outputs if "image/png" in output.get("data", ())))


def main() -> None:
    """Fill the lakehouse anew, run every notebook on it, and save it."""
    shutil.rmtree(LAKEHOUSE, ignore_errors=True)
    with build_lakehouse(LAKEHOUSE) as service:
        print(f"{service.instance_count():,} instances after {service.change_count():,} changes in {LAKEHOUSE}")
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        run(notebook)
        nbformat.write(notebook, path)
        print(path.name)
        if path.stem == "2-department":
            IMAGE.write_bytes(first_picture(notebook))


if __name__ == "__main__":
    main()
