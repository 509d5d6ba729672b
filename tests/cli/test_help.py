"""Help, completion and version: quick, complete, written once."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from segkit.cli.app import COMMANDS
from segkit.config import EvaluateConfig, PredictConfig, Section, SlidingWindowConfig, TrainConfig, describe

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SLOW_TO_IMPORT = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "matplotlib",
    "cv2",
    "skimage",
    "albumentations",
    "tifffile",
)
HELP_WITH_IMPORTS = """
import sys
from segkit.cli import main
try:
    main()
finally:
    print("IMPORTED", *sys.modules)
"""


def imported_by(*arguments: str) -> set[str]:
    command = [sys.executable, "-c", HELP_WITH_IMPORTS, *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Usage: " in output
    return set(output.partition("IMPORTED")[2].split())


def in_one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_slow(command: list[str]) -> None:
    assert not imported_by(*command, "--help").intersection(SLOW_TO_IMPORT)


def test_help_of_segkit_does_not_even_import_the_configuration() -> None:
    assert "pydantic" not in imported_by("--help")


def test_help_of_segkit_names_every_command_and_exit_code(run_segkit: Run) -> None:
    text = in_one_line(run_segkit("--help").stdout)
    for name in COMMANDS:
        assert f" {name} " in text
    for words in ("0 done", "2 usage", "3 bad input", "130 and 143 interrupted"):
        assert words in text


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_that_of_usage(run_segkit: Run) -> None:
    result = run_segkit()
    assert result.returncode == 2
    assert "Commands:" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("command", "kind", "keys"),
    [
        ("train", TrainConfig, ["data.dir", "epochs", "seed", "compute.device"]),
        (
            "predict",
            PredictConfig,
            [
                *("mpp", "region", "tissue", "tile", "max_memory", "batch", "dihedral", "probability"),
                *("probability_type", "format", "min_area", "compute.precision", "verify_seams", "inexact"),
            ],
        ),
        (
            "sliding-window",
            SlidingWindowConfig,
            [
                *("stride", "method", "verify", "threshold", "mpp", "region", "tissue", "tile", "max_memory", "format"),
                *("dihedral", "compute.device", "verify_seams"),
            ],
        ),
        ("evaluate", EvaluateConfig, ["split", "compute.device"]),
        ("preview", TrainConfig, ["data.dir", "seed"]),
    ],
)
def test_the_help_of_a_setting_is_the_configurations(
    run_segkit: Run, command: str, kind: type[Section], keys: list[str]
) -> None:
    text = in_one_line(run_segkit(command, "--help").stdout)
    for key in keys:
        assert in_one_line(describe(kind, key)) in text


def test_help_shows_defaults_and_choices(run_segkit: Run) -> None:
    text = in_one_line(run_segkit("evaluate", "--help").stdout)
    assert "--split auto|train|val|test|all" in text
    assert "[default: auto]" in text
    assert "[default: 50]" in in_one_line(run_segkit("train", "--help").stdout)


def test_the_version_is_the_packages(run_segkit: Run) -> None:
    from importlib.metadata import version

    assert run_segkit("--version").stdout == f"segkit {version('segkit')}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("segkit pre", {"predict", "preview"}),
        ("segkit predict --pr", {"--probability", "--probability-type", "--precision"}),
        ("segkit predict --format ", {"tiff", "ome-tiff", "ome-zarr"}),
        ("segkit evaluate --split t", {"train", "test"}),
        ("segkit predict --precision ", {"auto", "float32", "bfloat16"}),
        ("segkit sl", {"sliding-window"}),
        ("segkit sliding-window --method ", {"auto", "dense", "fragments", "atrous", "naive"}),
    ],
)
def test_bash_completes(run_segkit: Run, words: str, expected: set[str]) -> None:
    result = run_segkit(_SEGKIT_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1))
    assert set(result.stdout.split()) == expected


def test_zsh_completes_with_descriptions(run_segkit: Run) -> None:
    result = run_segkit(_SEGKIT_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="segkit ev")
    assert '"evaluate":' in result.stdout
    assert COMMANDS["evaluate"].partition(",")[0] in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_can_be_shown(run_segkit: Run, shell: str) -> None:
    result = run_segkit("--show-completion", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert result.returncode == 2  # a shell must be named where none is detected
    result = run_segkit("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert result.returncode == 0
    assert "_COMPLETE=complete_" in result.stdout
