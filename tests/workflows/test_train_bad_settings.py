"""Settings that cannot be, that do not go together, or that have no effect: refused in one clear line, or named."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.config import TrainConfig, build_config
from segkit.errors import ConfigError, InputError, ModelError, UsageError
from segkit.workflows.callbacks import quiet_progress
from segkit.workflows.find_lr import find_lr
from segkit.workflows.prepare import prepare
from segkit.workflows.preview import preview
from segkit.workflows.train import train
from tests.tiny import tiny_config
from tests.workflows.bad_input import KINDS, config_of, is_clear, notes_of, refused, spoilt, without_objects

VALUES = [
    ("optimiser.learning_rate=.nan", "learning_rate = nan: should be a finite number"),
    ("optimiser.learning_rate=.inf", "learning_rate = inf: should be a finite number"),
    ("optimiser.learning_rate=nan", "learning_rate = 'nan'"),
    ("optimiser.learning_rate=0", "learning_rate = 0: should be greater than 0"),
    ("optimiser.learning_rate=-1", "learning_rate = -1: should be greater than 0"),
    ("data.folds=1", "data.folds = 1: should be greater than or equal to 2"),
    ("data.folds=3", "data.folds and data.fold go together"),
    ("data.fold=1", "data.folds and data.fold go together"),
    ("ema=1", "ema = 1: should be less than 1"),
    ("compute.micro_batches=0", "micro_batches = 0: should be greater than or equal to 1"),
    ("loss=cross_entropy", "loss = 'cross_entropy': is a section, with settings of its own such as `loss.name`"),
    ("augment.extra=RandomShadow", "augment.extra = 'RandomShadow': should be a valid list"),
]


@pytest.mark.parametrize(("setting", "problem"), VALUES)
def test_impossible_values_are_refused_wherever_they_come_from(
    tiny_data: Path, tmp_path: Path, setting: str, problem: str
) -> None:
    key, _, value = setting.partition("=")
    section, _, name = key.rpartition(".")
    file = tmp_path / "settings.yaml"
    file.write_text(f"{section}:\n  {name}: {value}\n" if section else f"{name}: {value}\n")
    with pytest.raises(ConfigError, match=r"settings\.yaml cannot be used") as of_file:
        build_config(TrainConfig, file=file, flags={"data.dir": tiny_data})
    with pytest.raises(ConfigError, match="the configuration cannot be used") as of_setting:
        build_config(TrainConfig, assignments=[setting], flags={"data.dir": tiny_data})
    for caught in (of_file, of_setting):
        assert any(problem in line for line in caught.value.problems)
        assert is_clear(caught.value)


@pytest.mark.parametrize(
    ("kind", "settings", "match"),
    [
        ("masks", ("optimiser.nesterov=true",), "nesterov = true with optimiser.name = adamw"),
        ("masks", ("optimiser.nesterov=true", "optimiser.name=sgd", "optimiser.momentum=0"), "momentum = 0.0"),
        ("masks", ("data.folds=30", "data.fold=1"), "30 folds need as many images .* there are 6"),
        ("masks", ("loss.class_weights=[1.0]",), "class_weights has 1 numbers, and there are 2 classes"),
        ("labels", ("loss.class_weights=[1.0, 2.0, 3.0]",), "class_weights has 3 numbers, and there are 2 classes"),
        ("points", ("loss.class_weights=[1.0, 2.0, 3.0]",), "class_weights has 3 numbers, and there are 2 classes"),
        ("heat", ("loss.class_weights=[1.0, 2.0]",), "loss.class_weights = .*has a loss of its own"),
        ("heat", ("loss.name=dice",), "loss.name = dice: .*has a loss of its own"),
        ("heat", ("points.positives=0.2",), "points.positives = 0.2: is of a patch CNN"),
        ("masks", ("model.encoder_weights=imagenet",), "imagenet: the plain encoder has no such weights"),
        ("masks", ("model.encoder=resnet18", "model.form=paper"), "model.form = paper: with .*only `modern`"),
        ("masks", ("model.encoder=resnet18", "model.depth=6"), "model.depth = 6: resnet18 has levels for 1 to 5"),
        ("masks", ("model.network=patch_cnn",), "patch_cnn: learns from points"),
        ("masks", ("task=points",), "task = points: .* is used with masks"),
        ("masks", ("points.match_radius=5px",), "points.match_radius = 5px: is of learning from points"),
        ("masks", ("transfer.unfreeze_epoch=2",), "unfreeze_epoch = 2: no part is frozen"),
        ("masks", ("model.base_channels=5000",), "model.base_channels = 5000: should be less than or equal to 1024"),
        ("points", ("task=instance",), "task = instance: .* is used with points"),
        ("points", ("task=semantic",), "task = semantic: .* is used with points"),
        ("points", ("model.encoder=resnet18",), "model.encoder = resnet18: is for U-Nets"),
        ("points", ("model.encoder_weights=imagenet",), "model.encoder_weights = imagenet: is of U-Nets"),
        ("points", ("model.deep_supervision=true",), "model.deep_supervision = True: is of U-Nets"),
        ("points", ("loss.weight_map=true",), "loss.weight_map = True"),
        ("points", ("loss.class_weights=balanced",), "loss.class_weights = balanced"),
        ("points", ("compute.gradient_checkpointing=true",), "compute.gradient_checkpointing = True: is of U-Nets"),
        ("points", ("patches.size_px=1",), "patches.size_px = 1: should be greater than or equal to 3"),
        ("points", ("patches.batch=1",), "patches.batch = 1 .*batch norm needs several values"),
        ("points", ("compute.micro_batches=9",), "compute.micro_batches = 9: a single patch"),
        (
            "masks",
            ("patches.batch=1", "model.depth=5"),
            "patches.batch = 1 with compute.micro_batches = 1: .* of whose 32 px one",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    data_of: dict[str, Path], tmp_path: Path, kind: str, settings: tuple[str, ...], match: str
) -> None:
    with pytest.raises((ConfigError, InputError), match=f"(?s){match}") as caught:
        train(config_of(kind, data_of[kind], *settings), out=tmp_path / "run")
    assert is_clear(caught.value), str(caught.value)
    assert caught.value.exit_code == (3 if "folds" in settings[0] else 2)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "gpu"])
def test_devices_that_are_not_there(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    match = "this machine has 0 CUDA devices" if "cuda" in device else "expected auto, cpu, cuda or cuda:N"
    refused(tiny_config(tiny_data, f"compute.device={device}"), tmp_path / "run", UsageError, f"{device}: {match}")


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("masks", ("loss.focal_gamma=1",), "loss.focal_gamma = 1.0 (loss.name = dice_cross_entropy)"),
        ("masks", ("optimiser.momentum=0.5",), "optimiser.momentum = 0.5 (optimiser.name = adamw)"),
        ("masks", ("optimiser.decay_epochs=3",), "optimiser.decay_epochs = 3 (optimiser.schedule = polynomial)"),
        ("labels", ("loss.weight_map_w0=3",), "loss.weight_map_w0 = 3.0 (loss.weight_map = False)"),
        ("labels", ("data.hard_negatives=[a]", "patience=5"), "patience = 5 (epochs = 1)"),
        ("points", ("model.form=linear", "model.norm=batch"), "model.norm = batch (model.form = linear)"),
        ("points", ("data.ignore=7",), "data.ignore = 7 (task = points)"),
        ("heat", ("points.near_radius=20px",), "points.near_radius = 20px (model.network = unet)"),
    ],
)
def test_parameters_of_what_was_not_chosen_are_named(
    data_of: dict[str, Path], kind: str, settings: tuple[str, ...], said: str
) -> None:
    notes: list[str] = []
    prepare(config_of(kind, data_of[kind], *settings), on_progress=quiet_progress, on_note=notes.append)
    assert f"without effect: {said}" in notes


@pytest.mark.parametrize("kind", KINDS)
def test_of_what_works_no_setting_is_said_to_be_idle_not_even_on_resuming(
    stopped_of: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    run = shutil.copytree(stopped_of[kind], tmp_path / "run")
    notes: list[str] = []
    train(build_config(TrainConfig, file=run / "config.yaml"), resume=run, on_note=notes.append)
    assert notes
    assert not [note for note in notes if "without effect" in note]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_settings_that_work(data_of: dict[str, Path], tmp_path: Path, kind: str) -> None:
    odd = ["compute.precision=float16", "average_best=9", "augment.scale=[1.2, 0.8]", "patches.batch=5"]
    parts = 2 if kind == "points" else 99
    config = config_of(kind, data_of[kind], *odd, f"compute.micro_batches={parts}")
    if kind == "points":  # five in two parts are three and two
        assert config.patches.batch == 5
    _, notes = notes_of(config, tmp_path / "run")
    assert "average_best = 9: is more than there are epochs (1)" in notes


def test_a_score_that_is_undefined_stops_at_patience(tmp_path: Path) -> None:
    # The class has but one pixel in validation: no epoch finds it, and none is better than the first.
    def edit(data: Path) -> None:
        without_objects("val")(data)
        for name in ("field4", "field5"):
            mask = np.array(Image.open(data / "masks" / f"{name}.png"))
            mask[0, 0] = 255
            Image.fromarray(mask).save(data / "masks" / f"{name}.png")

    config = config_of("masks", spoilt(tmp_path, edit), "epochs=6", "patience=1", "model.init=zeros")
    result, notes = notes_of(config, tmp_path / "run")
    assert result.best_epoch == 1
    assert any(note.startswith("stopped early: no better epoch than 1") for note in notes)


# Weights of before


@pytest.mark.parametrize(
    ("kind", "other", "match"),
    [
        ("masks", "points", "is a patch CNN, the network to train is a U-Net"),
        ("points", "heat", "is a U-Net, the network to train is a patch CNN"),
        ("labels", None, "no model there"),
    ],
)
def test_models_that_training_cannot_start_from(
    data_of: dict[str, Path], tmp_path: Path, kind: str, other: str | None, match: str
) -> None:
    origin = tmp_path / "nothing"
    if other is not None:
        origin = train(config_of(other, data_of[other]), out=tmp_path / "origin").run
    config = config_of(kind, data_of[kind], f"transfer.init_from={origin}")
    assert str(origin) in str(refused(config, tmp_path / "run", ModelError, match))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("none.pth", None, "no such file of weights"),
        ("text.pth", b"text", "cannot be read as a file of weights"),
        ("text.safetensors", b"text", "cannot be read as a file of weights"),
        ("imagenet", None, "resnet18-.*.pth is not in .* and cannot be downloaded .* model.encoder_weights=PATH"),
    ],
)
def test_weights_of_an_encoder_that_are_not_to_be_had(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, match: str
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    weights = name if name == "imagenet" else path
    config = config_of("masks", tiny_data, "model.encoder=resnet18", f"model.encoder_weights={weights}")
    refused(config, tmp_path / "run", ModelError, match)


# Augmentation, and the commands that prepare as a training does

EXTRA = [
    ("{name: RandomShadw}", "no transform RandomShadw for images. The nearest names: RandomShadow"),
    ("{name: RandomShadow, num_shadow_limit: 3}", "no parameter num_shadow_limit. The nearest names: num_shadows"),
    ("{name: RandomShadow, p: 3}", "RandomShadow refuses its parameters: p"),
    ("{p: 0.5}", "no name of a transform"),
    ("{name: Resize, height: 10, width: 10}", "Transforms have to keep size and type"),
    ("{name: Normalize}", "Transforms have to keep size and type"),
    ("{name: FDA}", "FDA cannot be applied"),
]


@pytest.mark.parametrize(("extra", "match"), EXTRA)
def test_transforms_that_cannot_be_used_are_named_before_training(
    data_of: dict[str, Path], tmp_path: Path, extra: str, match: str
) -> None:
    for kind in ("labels", "points"):
        config = config_of(kind, data_of[kind], f"augment.extra=[{extra}]")
        refused(config, tmp_path / "run", ConfigError, rf"^augment.extra\[0\]: .*{match}")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (f"augment.extra=[{EXTRA[0][0]}]", "nearest names: RandomShadow"),
        ("model.network=patch_cnn", "learns from points"),
        ("points.near_radius=5px", "is of learning from points"),
    ],
)
def test_other_commands_refuse_the_same(tiny_data: Path, tmp_path: Path, settings: str, match: str) -> None:
    config = config_of("masks", tiny_data, settings)
    with pytest.raises(ConfigError, match=f"(?s){match}"):
        find_lr(config, tmp_path / "rates")
    with pytest.raises(ConfigError, match=f"(?s){match}"):
        preview(config, tmp_path / "preview.png")
    assert not (tmp_path / "preview.png").exists()


def test_other_commands_refuse_data_without_objects(tmp_path: Path) -> None:
    config = config_of("labels", spoilt(tmp_path, without_objects("train"), "labels"))
    for command in (lambda: find_lr(config, tmp_path / "rates"), lambda: preview(config, tmp_path / "preview.png")):
        with pytest.raises(InputError, match="the training images have no objects"):
            command()
