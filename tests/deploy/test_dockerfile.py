"""The Dockerfile keeps what it promises, as far as its text shows; deploy/check_image.py builds and runs it."""

import json
import re
import subprocess
import tomllib
from pathlib import PurePosixPath

import pytest

from tests.deploy.places import ROOT, tool

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


STEPS = instructions(TEXT)
STAGES = [number for number, (name, _) in enumerate(STEPS) if name == "FROM"]
LAST = STEPS[STAGES[-1] :]


def arguments_of(steps: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for one, rest in steps if one == name]


def only(steps: list[tuple[str, str]], name: str) -> str:
    (argument,) = arguments_of(steps, name)
    return argument


def test_hadolint_finds_nothing() -> None:
    ended = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_all_stages_begin_with_the_pinned_base() -> None:
    base = next(one for one in arguments_of(STEPS, "ARG") if one.startswith("BASE="))
    assert re.fullmatch(r"BASE=docker\.io/library/python:3\.\d+\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", base)
    oldest = re.findall(r"\d+", PROJECT["requires-python"])
    assert [int(word) for word in re.findall(r"\d+", base)[:2]] >= [int(word) for word in oldest]
    stages = [one.split() for one in arguments_of(STEPS, "FROM")]
    assert len(stages) >= 2
    names = {words[2] for words in stages if len(words) > 1}
    assert all(words[0] == "${BASE}" or words[0] in names for words in stages)


def test_everything_that_is_installed_is_pinned_and_leaves_no_cache() -> None:
    installs = [one for one in arguments_of(STEPS, "RUN") if re.search(r"\bpip\b.* install ", one)]
    assert len(installs) >= 3
    for command in installs:
        assert "--no-cache-dir" in command
        pinned = "--constraint constraints.txt" in command or '"setuptools==${SETUPTOOLS}"' in command
        assert pinned or ("--no-deps" in command and "--no-build-isolation" in command)
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)


def test_torch_alone_comes_from_an_index_of_its_own() -> None:
    (command,) = [one for one in arguments_of(STEPS, "RUN") if "TORCH_INDEX" in one]
    assert "--no-deps" in command
    assert command.endswith(" torch torchvision")
    given = {one.partition("=")[0] for one in arguments_of(STEPS, "ARG")}
    assert given >= {"BASE", "TORCH_INDEX", "PIP_INDEX_URL", "PIP_FIND_LINKS", "NPM_CONFIG_REGISTRY"}


def test_the_image_runs_segkit_as_nobody_in_particular() -> None:
    assert json.loads(only(LAST, "ENTRYPOINT")) == ["segkit"]  # no shell in between: segkit gets the signals
    assert only(LAST, "STOPSIGNAL") == "SIGTERM"
    user, group = only(LAST, "USER").split(":")
    assert int(user) > 0  # as a number: Kubernetes cannot tell by a name that it is not root
    assert int(group) > 0
    environment = dict(re.findall(r"(\w+)=(\S+)", only(LAST, "ENV")))
    assert environment["HOME"] == "/tmp"
    assert environment["USER"]
    assert environment["PYTHONNOUSERSITE"] == "1"
    assert environment["PYTHONPATH"] == "/opt/segkit"


def test_the_last_stage_only_copies_what_was_built() -> None:
    assert not arguments_of(LAST, "RUN")
    copies = arguments_of(LAST, "COPY")
    assert [one.split()[0] for one in copies] == ["--from=packages", "--from=program"]
    # What changes often comes last, in a layer of its own.
    assert [one.split()[-1] for one in copies] == ["/opt/packages", "/opt/segkit"]


def test_the_labels_are_true() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', only(LAST, "LABEL")))
    assert labels["title"] == PROJECT["name"]
    assert labels["licenses"] == PROJECT["license"]
    assert f"VERSION={PROJECT['version']}" in arguments_of(LAST, "ARG")


@pytest.mark.parametrize("source", [word for one in arguments_of(STEPS, "COPY") for word in one.split()[:-1]])
def test_what_is_copied_gets_to_the_builder(source: str) -> None:
    if source.startswith(("--from=", "/opt/")):
        return
    ignored, *admitted = (ROOT / ".dockerignore").read_text().split()
    assert ignored == "*"
    name = source.removeprefix("./").replace("[y]", "y")
    assert f"!{name}" in admitted
    assert "[" in source or (ROOT / name).exists()


def test_nothing_else_gets_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = {
        PurePosixPath(word).name.replace("[y]", "y")
        for one in arguments_of(STEPS, "COPY")
        for word in one.split()[:-1]
        if not word.startswith(("--from", "/opt/"))
    }
    assert {one.removeprefix("!") for one in ignored if one.startswith("!")} == copied
