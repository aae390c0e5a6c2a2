#!/usr/bin/env python
"""Set up a Python environment for the collection, or say what one lacks. Needs nothing but the standard library.

`install` puts the bundled detectron2 runtime beside instseg_d2, unless a working detectron2 of another origin is
there already; that one is kept. `check` installs nothing.
"""

import argparse
import importlib.metadata as metadata
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_OURS = "+instseg"


def detectron2_state() -> str:
    """What is installed as `detectron2`: `absent`, `bundled` (ours), `foreign` (working) or `broken: <error>`."""
    try:
        version = metadata.version("detectron2")
    except metadata.PackageNotFoundError:
        return "absent"
    if _OURS in version:
        return "bundled"
    # In another process, and away from the clone, so that only what is installed can be found.
    probe = subprocess.run(
        [sys.executable, "-c", "import detectron2, detectron2.modeling"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    return "foreign" if probe.returncode == 0 else f"broken: {probe.stderr.strip()}"


def install() -> int:
    """Install the collection, editable and with its development tools, and the runtime where it is needed."""
    state = detectron2_state()
    if state.startswith("broken"):
        print(
            f"The detectron2 {metadata.version('detectron2')} of {sys.executable} cannot be imported:\n"
            f"{state.removeprefix('broken: ')}\nRepair it, or `pip uninstall detectron2` and run again for the bundled "
            "runtime.",
            file=sys.stderr,
        )
        return 1
    targets = ["-e", f"{ROOT}[dev]"]
    if state == "foreign":
        print(f"Keeping the detectron2 {metadata.version('detectron2')} that is installed.")
    else:
        targets += ["-e", str(ROOT / "runtime")]
    return subprocess.call([sys.executable, "-m", "pip", "install", *targets])


def _requirements(pyproject: Path, sections: tuple[str, ...]) -> list[tuple[str, str]]:
    """`(distribution, lowest version)` of the lists named `sections`, one requirement a line."""
    text = pyproject.read_text(encoding="utf-8")
    found = []
    for section in sections:
        block = re.search(rf"^{section} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL).group(1)
        found += re.findall(r'^\s*"([\w.-]+)>=([\w.]+)"', block, re.MULTILINE)
    return found


def _older(version: str, lowest: str) -> bool:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text.split("+")[0])]

    return numbers(version) < numbers(lowest)


def missing() -> list[str]:
    """One line for each thing that this environment lacks."""
    problems = []
    for name, lowest in _requirements(ROOT / "pyproject.toml", ("dependencies", "dev")):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            # OpenCV has several distributions of one module; any of them will do.
            if not (name.startswith("opencv") and _has_module("cv2")):
                problems.append(f"{name} is not installed (>= {lowest} is needed)")
            continue
        if _older(version, lowest):
            problems.append(f"{name} {version} is older than {lowest}")
    state = detectron2_state()
    if state == "absent" and not _has_module("detectron2"):
        problems.append(
            f"detectron2 is not installed: `{sys.executable} -m pip install {ROOT / 'runtime'}` "
            "for the bundled one, or upstream's"
        )
    elif state.startswith("broken"):
        problems.append(f"detectron2 cannot be imported: {state.splitlines()[-1]}")
    return problems


def _has_module(name: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True).returncode == 0


def check() -> int:
    """Print what is missing; 0 if nothing is."""
    problems = missing()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{sys.executable} lacks the above; nothing was installed.", file=sys.stderr)
    return 1 if problems else 0


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["install", "check"])
    return install() if parser.parse_args().action == "install" else check()


if __name__ == "__main__":
    sys.exit(main())
