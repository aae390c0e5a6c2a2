"""What holds the distribution together: the wheel's content, no shadowing of detectron2, a clear error without it."""

import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.py") if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_wheel_holds_the_whole_tree(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if name.endswith(".py")}
        wheel.extractall(tmp_path / "site")
    expected = {f"instseg_d2/{name}" for name in modules(ROOT / "instseg_d2")}
    expected |= {f"instseg_d2/configs/{name}" for name in modules(ROOT / "configs")}
    expected |= {f"instseg_d2/projects/{name}" for name in modules(ROOT / "projects")}
    assert packed == expected

    script = "from instseg_d2 import model_zoo; import sys; sys.exit(model_zoo.main(['check']))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); {script}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    # Those with an underscore are parts of others.
    count = len(list((ROOT / "projects").glob("*/configs/[!_]*.py")))
    assert f"{count} of {count} configs load" in done.stdout


def test_nothing_of_ours_shadows_detectron2():
    outside = [path for path in ROOT.rglob("detectron2") if path.is_dir() and ".venv" not in path.parts]
    assert [path for path in outside if path != ROOT / "runtime" / "detectron2" and "build" not in path.parts] == []


def test_import_without_detectron2_is_one_sentence():
    script = textwrap.dedent(
        """
        import sys

        class Hide:
            def find_spec(self, name, *_):
                if name == "detectron2":
                    raise ModuleNotFoundError(name=name)

        sys.meta_path.insert(0, Hide())
        import instseg_d2
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: instseg_d2 needs detectron2: run `make setup`")


def test_readme_names_every_project():
    text = (ROOT / "README.md").read_text()
    for project in (ROOT / "projects").iterdir():
        if project.is_dir() and not project.name.startswith((".", "_")):
            assert f"projects/{project.name}" in text
