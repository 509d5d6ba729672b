"""The configuration: all problems at once, precedence, plain YAML only, and a round trip."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from segkit.config import (
    DataConfig,
    EvaluateConfig,
    PredictConfig,
    Section,
    TrainConfig,
    build_config,
    describe,
    known_keys,
    read_yaml,
    write_yaml,
)
from segkit.errors import ConfigError

KINDS = [DataConfig, TrainConfig, PredictConfig, EvaluateConfig]


def problems_of(*assignments: str, file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_config(TrainConfig, file=file, assignments=["data.dir=images", *assignments])
    return caught.value.problems


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


def test_all_problems_are_reported_at_once() -> None:
    problems = problems_of("epochs=0", "optimiser.learning_rate=fast", "modell.depth=3", "patches.batsh=4")
    assert len(problems) == 4
    assert [problem.partition(" ")[0].rstrip(":") for problem in problems] == [
        "patches.batsh",
        "optimiser.learning_rate",
        "epochs",
        "modell",
    ]


@pytest.mark.parametrize(
    ("given_key", "nearest"),
    [
        ("epohs", "epochs"),
        ("optimiser.learnin_rate", "optimiser.learning_rate"),
        ("optimizer.learning_rate", "optimiser"),
        ("learning_rate", "optimiser.learning_rate"),
        ("data.ingore", "data.ignore"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_known_one(given_key: str, nearest: str) -> None:
    (problem,) = problems_of(f"{given_key}=1")
    assert "unknown key" in problem
    assert f"`{nearest}`" in problem


def test_a_key_like_no_other_gets_no_suggestion() -> None:
    (problem,) = problems_of("zzzz=1")
    assert "did you mean" not in problem


def test_a_problem_shows_the_value_and_what_would_fit() -> None:
    (problem,) = problems_of("patches.size_px=tiny")
    assert problem.startswith("patches.size_px = 'tiny': ")
    assert "integer" in problem
    assert "'auto'" in problem


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-1", "0", "[1]", "true1", "{a: 1}"])
def test_a_learning_rate_must_be_a_positive_finite_number(value: str) -> None:
    (problem,) = problems_of(f"optimiser.learning_rate={value}")
    assert problem.startswith("optimiser.learning_rate = ")


def test_what_is_needed_and_missing_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(TrainConfig)
    assert caught.value.problems == ["data.dir: is needed and not given"]


def test_flag_goes_before_assignment_before_file_before_default(tmp_path: Path) -> None:
    file = written(tmp_path, "data: {dir: from_file}\nepochs: 1\nseed: 1\nworkers: 1\n")
    config = build_config(
        TrainConfig, file=file, assignments=["epochs=2", "seed=2"], flags={"epochs": 3, "workers": None}
    )
    assert (config.epochs, config.seed, config.workers) == (3, 2, 1)
    assert (
        config.optimiser.learning_rate
        == TrainConfig.model_fields["optimiser"].get_default(call_default_factory=True).learning_rate
    )
    assert config.data.dir == Path("from_file")


def test_of_two_assignments_the_later_wins() -> None:
    assert build_config(PredictConfig, assignments=["tile=128", "tile=256"]).tile == 256


def test_a_number_in_scientific_notation_is_a_number() -> None:
    config = build_config(TrainConfig, assignments=["data.dir=d", "optimiser.learning_rate=3e-4"])
    assert config.optimiser.learning_rate == pytest.approx(3e-4)


@pytest.mark.parametrize("assignment", ["epochs", "epochs 3", ""])
def test_an_assignment_without_a_value_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        build_config(TrainConfig, assignments=[assignment])


def test_a_value_where_a_section_is_needed_is_refused() -> None:
    with pytest.raises(ConfigError, match="`epochs` is a value"):
        build_config(TrainConfig, assignments=["epochs=3", "epochs.more=1"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: !!python/object/apply:os.system ['true']", "python/object"),
        ("epochs: !secret 3", "secret"),
        ("a: &a [1, 2]\nb: *a", "aliases"),
        ("epochs: 1\nepochs: 2", "`epochs` is given twice"),
        ("data: {dir: a, dir: b}", "`dir` is given twice"),
        ("epochs: [1", "not plain YAML"),
        ("- epochs", "key: value"),
        ("1: 2", "key: value"),
        ("just words", "key: value"),
        ("epochs: 1\n--- \nepochs: 2", "not plain YAML"),
        ("\x00", "not plain YAML"),
    ],
)
def test_what_is_no_plain_mapping_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml(written(tmp_path, text))
    assert words in str(caught.value)
    assert "config.yaml" in str(caught.value)


def test_an_alias_bomb_is_refused_before_it_expands(tmp_path: Path) -> None:
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30))
    with pytest.raises(ConfigError, match="aliases"):
        read_yaml(written(tmp_path, f"l0: &l0 [x]\n{levels}\n"))


def test_a_huge_file_is_refused_without_parsing_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="larger than"):
        read_yaml(written(tmp_path, "#" * 1_000_001))


def test_deep_nesting_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nested"):
        read_yaml(written(tmp_path, "a: " + "[" * 2000))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(file)


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "# only words\n")) == {}


@given(st.text(max_size=60))
def test_any_assignment_is_a_configuration_or_a_config_error(text: str) -> None:
    try:
        config = build_config(TrainConfig, assignments=["data.dir=d", text])
    except ConfigError:
        return
    assert isinstance(config, TrainConfig)


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for word in reversed(dotted.split(".")):
        value = {word: value}
    return dict(value)


valid_values = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 10**6),
        "seed": st.integers(0, 2**32 - 1),
        "loss": st.fixed_dictionaries({"name": st.sampled_from(["dice_cross_entropy", "cross_entropy"])}),
        "workers": st.sampled_from(["auto", 0, 3]),
        "optimiser": st.fixed_dictionaries({"learning_rate": st.floats(1e-9, 10)}),
        "patches": st.fixed_dictionaries({"size_px": st.one_of(st.just("auto"), st.integers(1, 4096))}),
        "augment": st.fixed_dictionaries({"scale": st.just([0.5, 2.0]), "flips": st.booleans()}),
    },
)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20), valid_values)
def test_a_written_configuration_reads_back_as_the_same(folder: str, values: dict[str, Any]) -> None:
    config = TrainConfig.model_validate({"data": {"dir": folder}, **values})
    assert TrainConfig.model_validate(yaml.safe_load(write_yaml(config))) == config


def test_the_file_that_a_run_keeps_is_read_by_the_same_door(tmp_path: Path) -> None:
    config = build_config(TrainConfig, assignments=["data.dir=d", "optimiser.weight_decay=1e-5", "data.mpp=0.25"])
    assert build_config(TrainConfig, file=written(tmp_path, write_yaml(config))) == config


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_has_its_help_text(kind: type[Section]) -> None:
    for key in known_keys(kind):
        assert describe(kind, key).endswith("."), key


def test_a_configuration_cannot_be_changed_after_validation() -> None:
    config = build_config(PredictConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.tile = 3
