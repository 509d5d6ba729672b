"""The files for clusters, the tools that check them, and commands that stand in for a cluster's."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
SCRIPTS = sorted(DEPLOY.glob("slurm/*.sbatch"))
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
README = (DEPLOY / "README.md").read_text(encoding="utf-8")

BASH = "#!/usr/bin/env bash\n"
# A command that notes how it was called; on SIGTERM segkit stops with 143, as the real one does.
NOTE = BASH + 'printf "%s\\n" "$(basename "$0") $*" >> "$CALLS"\n'
WORKER = (
    BASH
    + 'trap "exit ${CODE_AT_TERM:-143}" TERM\n'
    + NOTE.removeprefix(BASH)
    + 'for _ in $(seq "${TENTHS:-0}"); do sleep 0.1; done\nexit "${CODE:-0}"\n'
)


def put_commands(folder: Path, **commands: str) -> dict[str, str]:
    """Write commands into a folder and return an environment in which they come first."""
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC_", "SEGKIT_"))
    }
    path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return clean | {"PATH": path, "CALLS": str(folder / "calls"), "SLURM_JOB_ID": "41234"}


def calls(folder: Path) -> list[str]:
    """Return how the commands in a folder were called."""
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


def tool(name: str) -> str:
    """Return the path of a program that checks files; without it the test is skipped."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (the extra dev has it)")
    return found
