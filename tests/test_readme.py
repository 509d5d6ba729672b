"""The documentation cannot drift: commands parse, files exist, targets exist, imports import, exit codes agree."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from segkit import errors
from segkit.cli.app import COMMANDS, app, load_command
from segkit.config import EvaluateConfig, PredictConfig, Section, SlidingWindowConfig, TrainConfig, build_config

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md")}
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
KINDS: dict[str, type[Section]] = {
    "train": TrainConfig,
    "predict": PredictConfig,
    "sliding-window": SlidingWindowConfig,
    "evaluate": EvaluateConfig,
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    shown = [line for block in blocks(README, "sh") for line in block.splitlines()]
    shown += re.findall(r"^#   (segkit .*)$", "\n".join(path.read_text() for path in CONFIGS), flags=re.MULTILINE)
    shown += [
        line.replace("$(BIN)/", "").strip() for line in MAKEFILE.splitlines() if line.startswith("\t$(BIN)/segkit")
    ]
    return [shlex.split(line, comments=True) for line in shown if line.startswith("segkit ")]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_command_that_is_shown_can_be_parsed(command: list[str]) -> None:
    _, name, *arguments = command
    assert name in COMMANDS
    if arguments == ["--settings"]:
        with pytest.raises(typer.Exit):  # it lists them while it is parsed
            load_command(name).make_context(name, arguments)
        return
    # Builds the context, which parses and converts every option, and runs nothing.
    parameters = load_command(name).make_context(name, arguments).params
    if name in KINDS:
        build_config(KINDS[name], assignments=["data.dir=d"] * (name == "train") + (parameters["assignments"] or []))
    config = parameters.get("config")
    assert config is None or config.parts[0] == "runs" or (ROOT / config).is_file()


def test_every_command_is_shown() -> None:
    assert {command[1] for command in commands()} == set(COMMANDS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_configuration_is_valid_and_says_how_it_is_used(path: Path) -> None:
    build_config(TrainConfig, file=path, flags={"data.dir": Path("data")})
    assert f"--config configs/{path.name}" in path.read_text() + README


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_make_target_that_is_named_exists(text: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
    named = set(re.findall(r"^    make ([a-z-]+)|`make ([a-z]+[a-z-]*[a-z])`", text, flags=re.MULTILINE))
    assert named
    assert {first or second for first, second in named} <= targets


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_link_leads_to_a_file(text: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_modules_that_the_tour_names_exist() -> None:
    named = re.findall(r"`((?:tests/)?[a-z_]+/[a-z_]+\.py|[a-z_]+/|[a-z_]+\.py)`", TEXTS["CONTRIBUTING.md"])
    assert len(named) > 20
    for name in named:
        assert (ROOT / "segkit" / name).exists() or (ROOT / name).exists(), name


@pytest.mark.parametrize("block", blocks(README, "python"))
def test_the_python_that_is_shown_imports_what_is_there(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):  # a module of it, which is not there until it is imported
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_the_exit_codes_that_are_shown_are_those_of_the_errors() -> None:
    shown = {
        int(code) for cell in re.findall(r"^\| ([\d, ]+) \|", README, flags=re.MULTILINE) for code in cell.split(",")
    }
    known = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    assert shown == known | {0, 143}


def test_the_two_commands_and_the_verbs_are_on_the_first_screen() -> None:
    first_screen = [line.strip() for line in README.splitlines()[:20]]
    for command in (
        "make demo",
        "make test",
        "segkit train",
        "segkit predict",
        "segkit sliding-window",
        "segkit evaluate",
        "segkit check",
    ):
        assert any(line.startswith(command) for line in first_screen), command


def test_the_epilogue_of_help_lists_every_exit_code() -> None:
    epilog = typer.main.get_command(app).epilog
    assert epilog is not None
    assert {int(number) for number in re.findall(r"\d+", epilog)} == {0, 1, 2, 3, 4, 5, 6, 130, 143}
