"""The notebook, run by the interpreter of the tests, whatever kernels are registered on the machine."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


class ThisPython(KernelSpecManager):
    def get_kernel_spec(self, kernel_name):
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name=kernel_name, language="python")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_stored(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert notebook.metadata.kernelspec.name == "python3"
    # Editors add the exact version, and a change with each machine.
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert path.stat().st_size < 20_000


def texts(notebook) -> str:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
def test_predictor_runs_from_training_to_evaluation(tiny_recipe, tmp_path, monkeypatch):
    settings = {"CONFIG": tiny_recipe, "WEIGHTS": tmp_path / "model_final.pth", "ITERATIONS": 2, "OUTPUT": tmp_path}
    for name, value in settings.items():
        monkeypatch.setenv(f"NOTEBOOK_{name}", str(value))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def execute():
        notebook = nbformat.read(ROOT / "notebooks" / "predictor.ipynb", as_version=4)
        kernel = AsyncKernelManager(kernel_spec_manager=ThisPython())
        resources = {"metadata": {"path": str(tmp_path)}}
        return NotebookClient(notebook, km=kernel, timeout=120, resources=resources).execute()

    trained = execute()
    assert "training for 2 iterations" in texts(trained)
    assert "instances of 96 x 64 px: ['pred_boxes', 'scores', 'pred_classes', 'pred_masks']" in texts(trained)
    assert re.search(r"^segm +AP ", texts(trained), re.MULTILINE)
    outputs = [output for cell in trained.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    loaded = execute()
    assert "training for" not in texts(loaded)
    assert texts(loaded).splitlines()[-2:] == texts(trained).splitlines()[-2:]
