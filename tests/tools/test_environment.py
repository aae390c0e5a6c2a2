import importlib.metadata
import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment():
    spec = importlib.util.spec_from_file_location("environment", ROOT / "tools" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pretend(monkeypatch, version: str | None, import_error: str = "") -> list[list[str]]:
    """Make the installed detectron2 look like `version`; returns the commands that would have been run."""
    real = importlib.metadata.version

    def fake_version(name):
        if name != "detectron2":
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    commands = []
    monkeypatch.setattr(importlib.metadata, "version", fake_version)
    monkeypatch.setattr(subprocess, "call", lambda command: commands.append(command) or 0)
    result = subprocess.CompletedProcess([], 1 if import_error else 0, "", import_error)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: result)
    return commands


@pytest.mark.parametrize("version", [None, "0.6+instseg.0"])
def test_runtime_is_installed_where_there_is_none_or_an_older_one_of_ours(environment, monkeypatch, version):
    commands = pretend(monkeypatch, version)
    assert environment.install() == 0
    assert str(ROOT / "runtime") in commands[0]


def test_working_foreign_detectron2_is_kept(environment, monkeypatch, capsys):
    commands = pretend(monkeypatch, "0.6")
    assert environment.install() == 0
    assert str(ROOT / "runtime") not in commands[0]
    assert "Keeping the detectron2 0.6" in capsys.readouterr().out


def test_broken_foreign_detectron2_stops_with_its_error(environment, monkeypatch, capsys):
    commands = pretend(monkeypatch, "0.6", import_error="ImportError: undefined symbol _C")
    assert environment.install() == 1
    assert commands == []
    assert "undefined symbol _C" in capsys.readouterr().err


def test_check_names_what_is_missing_or_old(environment, monkeypatch):
    monkeypatch.setattr(
        environment, "_requirements", lambda *_: [("no-such-distribution", "1.0"), ("torch", "999.0"), ("numpy", "1.0")]
    )
    problems = environment.missing()
    assert any("no-such-distribution is not installed (>= 1.0" in problem for problem in problems)
    assert any(problem.startswith("torch ") and "older than 999.0" in problem for problem in problems)
    assert not any(problem.startswith("numpy") for problem in problems)


def test_requirements_are_read_from_the_project(environment):
    found = dict(environment._requirements(ROOT / "pyproject.toml", ("dependencies", "dev")))
    assert found["torch"] == "2.5"
    assert "pytest" in found
    assert "detectron2" not in found


def test_versions_compare_by_number(environment):
    assert environment._older("2.9.1", "2.10")
    assert not environment._older("2.10.0+cu130", "2.9")
