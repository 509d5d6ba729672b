"""deploy/README.md fits the files, the exit codes and the log that it explains."""

import re
import shlex
import signal
from typing import Any

import pytest
import yaml

from segkit import errors
from segkit.cli.app import load_command
from segkit.cli.json_log import KEYS
from tests.deploy.places import DEPLOY, MANIFESTS, README, ROOT, SCRIPTS

JOBS = {path.name: yaml.safe_load(path.read_text(encoding="utf-8"))["spec"] for path in MANIFESTS}


def shown_commands() -> list[str]:
    inline = re.findall(r"`((?:sbatch|kubectl) [^`]+)`", README)
    in_files = [
        line.removeprefix("#").strip()
        for path in [*SCRIPTS, *MANIFESTS]
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"#   (sbatch|kubectl) ", line)
    ]
    with_container = re.findall(r'^    SEGKIT_IN="[^"]*" (sbatch .*)$', README, flags=re.MULTILINE)
    return [*inline, *in_files, *with_container]


def names_of(arguments: list[str], script: str) -> dict[str, Any]:
    """Return the parameters of segkit's command as a script makes it of its arguments."""
    words = ["train", *arguments] if script.startswith("train") else arguments
    parameters: dict[str, Any] = load_command(words[0]).make_context(words[0], words[1:]).params
    return parameters


@pytest.mark.parametrize("command", shown_commands())
def test_a_command_that_is_shown_names_a_file_and_can_be_parsed(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "kubectl":
        assert words[1] == "delete" or (ROOT / words[words.index("-f") + 1]).is_file()
        return
    if "--wrap" in words:
        return
    script = next(number for number, word in enumerate(words) if word.endswith(".sbatch"))
    assert (ROOT / words[script]).is_file()
    parameters = names_of(words[script + 1 :], words[script].rpartition("/")[2])
    if "inputs" in parameters:
        assert len(parameters["inputs"]) == 1
        assert parameters["models"]
    else:
        assert parameters["out"] == parameters["resume"]


def test_every_file_is_explained_with_its_command() -> None:
    for path in [*SCRIPTS, *MANIFESTS]:
        assert f"]({path.relative_to(DEPLOY)})" in README
        assert sum(str(path.relative_to(ROOT)) in command for command in shown_commands()) >= 2


def test_a_link_leads_to_a_file() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (DEPLOY / target).exists(), target


def test_the_exit_codes_are_those_of_the_errors() -> None:
    rows = re.findall(r"^\| ([0-9]+) \|[^|]*\|[^|]*\|([^|]*)\|([^|]*)\|$", README, flags=re.MULTILINE)
    table = {int(code): (training.strip(), slides.strip()) for code, training, slides in rows}
    known = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    assert table.keys() == known | {0, 128 + signal.SIGTERM, 128 + signal.SIGKILL}

    def codes(job: str) -> set[int]:
        return set(JOBS[job]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"])

    assert {code for code, cells in table.items() if cells[0] == "the Job fails at once"} == codes("train-job.yaml")
    failing = {code for code, cells in table.items() if cells[1] == "the index fails at once"}
    assert failing == codes("predict-indexed-job.yaml")


def test_the_keys_of_the_log_are_those_that_are_written() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|", README, flags=re.MULTILINE)
    assert {event: tuple(re.findall(r"\w+", keys)) for event, keys in rows} == KEYS
