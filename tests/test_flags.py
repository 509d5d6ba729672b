"""The interface is frozen: a flag that comes, goes or changes its name needs an edit here, and a line in CHANGELOG."""

from typing import Any

import typer

from segkit.cli.app import COMMANDS, app, load_command

COMMON = {"--json", "--log-json", "--verbose", "-v"}
CONFIGURED = {"--config", "--set"}
SLIDES = {
    "INPUT",
    "--model",
    "--out",
    "--mpp",
    "--region",
    "--tissue",
    "--tile",
    "--max-memory",
    "--format",
    "--dihedral",
    "--no-dihedral",
    "--device",
    "--verify-seams",
    "--shard",
    "--dry-run",
    "--overwrite",
}
FLAGS = {
    "train": COMMON
    | CONFIGURED
    | {"--data", "--out", "--epochs", "--seed", "--device", "--resume", "--settings"}
    | {"--init-from", "--cache", "--folds", "--gpus"},
    "predict": COMMON
    | CONFIGURED
    | SLIDES
    | {
        "--batch",
        "--probability",
        "--no-probability",
        "--probability-type",
        "--min-area",
        "--precision",
        "--inexact",
    },
    "sliding-window": COMMON | CONFIGURED | SLIDES | {"--stride", "--method", "--verify", "--threshold"},
    "evaluate": COMMON | CONFIGURED | {"--data", "--model", "--split", "--pred", "--truth", "--out", "--device"},
    "view": COMMON | {"SLIDE", "OUT", "--port", "--no-browser", "--install-viewer"},
    "export": COMMON | {"MODEL|RUN", "--format", "--out", "--dense", "--stride", "--input", "--output"},
    "compare": COMMON | CONFIGURED | {"EVAL|RUN...", "--data", "--split", "--out", "--device"},
    "check": COMMON | CONFIGURED | {"DIR"},
    "info": COMMON | {"FILE"},
    "preview": COMMON | CONFIGURED | {"--data", "--out", "--seed"},
    "find-lr": COMMON | CONFIGURED | {"--data", "--out", "--low", "--high", "--steps", "--seed", "--device"},
    "make-sample": COMMON | {"DIR", "--seed"},
}
ROOT_FLAGS = {"--version", "--log-json", "--verbose", "-v", "--install-completion", "--show-completion"}


def flags_of(command: Any) -> set[str]:
    """Return a command's options by all their names, and its arguments by what help calls them."""
    parameters = command.params
    options = [one for one in parameters if one.param_type_name == "option"]
    arguments = {one.metavar for one in parameters if one.param_type_name == "argument"}
    return {name for one in options for name in (*one.opts, *one.secondary_opts)} | arguments


def test_the_flags_are_exactly_these() -> None:
    assert {name: flags_of(load_command(name)) for name in COMMANDS} == FLAGS
    assert flags_of(typer.main.get_command(app)) == ROOT_FLAGS
