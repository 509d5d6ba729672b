"""Typed, validated configuration: what can be set, its meaning, its default.

A field's description is the only place where its help is written; the command line shows the same text. Values
come from flags, `--set key=value`, a YAML file and defaults, in this order of precedence. A field that may be
`auto` is computed from the data when it is not given; the value chosen is written into the run folder.

Unknown keys and wrong values are reported all at once, with the nearest known key.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segkit.errors import ConfigError

Auto = Literal["auto"]
AUTO: Auto = "auto"
MAX_CONFIG_BYTES = 100_000
MAX_NESTING = 20
DIHEDRAL_HELP = "Average over the 8 flips and quarter turns (8 times slower)."

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
ScaleRange = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Section(BaseModel):
    """A group of settings: unknown keys are refused, values cannot be changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class DataConfig(Section):
    """Which images and annotations are used."""

    dir: Path = Field(description="Folder with images/ and masks/, labels/ or geojson/ (see `segkit check`).")
    annotation: Literal["auto", "masks", "labels", "geojson"] = Field(
        AUTO,
        description="Annotation to learn from; auto: dataset.yaml, else masks, labels, geojson, the first there.",
    )
    classes: list[str] | Auto = Field(
        AUTO, description="Class names by id, background first; auto: dataset.yaml, else numbered."
    )
    ignore: int | None = Field(None, description="Mask value of pixels that are not labelled and do not count.")
    mpp: Annotated[float, Field(gt=0)] | Auto = Field(
        AUTO, description="Micrometres per pixel of the images; auto: dataset.yaml, else the files' metadata."
    )
    val_fraction: Fraction = Field(
        0.2, description="Share of images (or groups) for validation if there are no splits."
    )
    test_fraction: Fraction = Field(0.2, description="Share of images (or groups) for the locked test set, likewise.")


class ModelConfig(Section):
    """The network's form."""

    form: Literal["modern", "paper"] = Field(
        "modern",
        description="modern: same convolutions with batch norm; paper: Ronneberger 2015, valid convolutions, "
        "dropout at the bottom, no batch norm.",
    )
    base_channels: Positive | Auto = Field(AUTO, description="Feature maps of the first level; auto: 32 (paper: 64).")
    depth: Annotated[int, Field(ge=1, le=7)] = Field(4, description="Number of poolings.")
    dropout: Fraction | Auto = Field(
        AUTO, description="Dropout at the end of the contracting path; auto: 0 (paper: 0.5)."
    )


class PatchConfig(Section):
    """How training samples are drawn."""

    size_px: Positive | Auto = Field(AUTO, description="Side of a training patch; auto: 256, or the smallest image's.")
    batch: Positive = Field(8, description="Patches in a training step.")
    balanced: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="Share of patches centred on a pixel of an evenly drawn class; the rest lie anywhere.",
    )


class AugmentConfig(Section):
    """Random changes of training samples; `auto` takes the preset's value, 0 switches a change off."""

    preset: Literal["auto", "none", "light", "histology", "em"] = Field(
        AUTO, description="Set of strengths; auto: histology for colour images, em for grey ones."
    )
    flips: bool | Auto = Field(AUTO, description="Mirror horizontally and vertically, each with probability 1/2.")
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] | Auto = Field(AUTO, description="Largest rotation.")
    scale: ScaleRange | Auto = Field(AUTO, description="Range of magnification, e.g. [0.8, 1.25].")
    shear_degrees: Annotated[float, Field(ge=0, le=45)] | Auto = Field(AUTO, description="Largest shear.")
    elastic_px: NotNegative | Auto = Field(AUTO, description="Size of elastic displacements (about their RMS).")
    stain: Fraction | Auto = Field(
        AUTO, description="Largest relative change of the amounts of haematoxylin and eosin."
    )
    brightness: Fraction | Auto = Field(AUTO, description="Largest relative change of brightness.")
    contrast: Fraction | Auto = Field(AUTO, description="Largest relative change of contrast.")
    gamma: Fraction | Auto = Field(AUTO, description="Largest relative change of gamma.")
    hue_degrees: Annotated[float, Field(ge=0, le=180)] | Auto = Field(AUTO, description="Largest turn of the hue.")
    saturation: Fraction | Auto = Field(AUTO, description="Largest relative change of saturation.")
    noise: Fraction | Auto = Field(AUTO, description="Largest standard deviation of Gaussian noise, white = 1.")
    blur_px: NotNegative | Auto = Field(AUTO, description="Largest sigma of Gaussian blur.")


class OptimiserConfig(Section):
    """How weights are learned."""

    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="Largest learning rate (AdamW).")
    weight_decay: NotNegative = Field(1e-4, description="Decoupled weight decay; not applied to norms and biases.")
    warmup_steps: Annotated[int, Field(ge=0)] | Auto = Field(
        AUTO, description="Steps over which the rate rises linearly; auto: 5 % of all steps, at most 200."
    )
    schedule: Literal["polynomial", "cosine", "constant"] = Field(
        "polynomial", description="Decay after warm-up; polynomial: (1 - t)^0.9, as nnU-Net."
    )
    clip_norm: NotNegative = Field(10.0, description="Gradients are scaled down to this norm; 0: never.")


class ComputeConfig(Section):
    """Where and how numbers are computed."""

    device: str = Field(AUTO, description="auto, cpu, cuda or cuda:N; auto: the first CUDA device, else the CPU.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        AUTO,
        description="Number format of the network; auto: bfloat16 where the processor computes in it, else float32.",
    )


class TrainConfig(Section):
    """Everything that defines a training run."""

    data: DataConfig
    model: ModelConfig = Field(default_factory=ModelConfig)
    patches: PatchConfig = Field(default_factory=PatchConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    compute: ComputeConfig = Field(default_factory=ComputeConfig)
    loss: Literal["dice_cross_entropy", "cross_entropy"] = Field(
        "dice_cross_entropy", description="Mean of soft Dice and cross entropy, or cross entropy alone."
    )
    epochs: Positive = Field(50, description="Number of epochs.")
    steps_per_epoch: Positive | Auto = Field(
        AUTO,
        description="Steps in an epoch; auto: patches cover the training images once, at least 20 steps.",
    )
    workers: Annotated[int, Field(ge=0)] | Auto = Field(
        AUTO, description="Processes that prepare samples; 0: none; auto: from the number of CPU cores."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seed of everything random.")


class PredictConfig(Section):
    """Everything that defines a prediction."""

    mpp: Annotated[float, Field(gt=0)] | Auto = Field(
        AUTO, description="Micrometres per pixel of the slide at level 0; auto: from its metadata."
    )
    tile: Positive | Auto = Field(
        AUTO,
        description="Side of the tiles in pixels, a multiple of the model's alignment; auto: 512, 1024 on CUDA.",
    )
    batch: Positive | Auto = Field(AUTO, description="Tiles per pass of the network; auto: 1, 8 on CUDA.")
    dihedral: bool = Field(False, description=DIHEDRAL_HELP)
    probability: bool = Field(False, description="Write the probability of the foreground as probability.tif, too.")
    min_area: NotNegative = Field(
        0.0,
        description="Objects smaller than this are left out of the object list (um2; px where mpp is unknown).",
    )
    compute: ComputeConfig = Field(default_factory=ComputeConfig)


class EvaluateConfig(Section):
    """Everything that defines an evaluation."""

    split: Literal["train", "val", "test", "all"] = Field("val", description="Images that are measured.")
    bootstrap: Positive = Field(1000, description="Resamplings of the images behind each 95 % interval.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seed of the resampling.")
    dihedral: bool = Field(False, description=DIHEDRAL_HELP)
    compute: ComputeConfig = Field(default_factory=ComputeConfig)


ConfigT = TypeVar("ConfigT", bound=Section)


def build_config(
    kind: type[ConfigT],
    *,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Merge defaults, a YAML file, `key=value` assignments and flags (the later win) and validate the result.

    Parameters
    ----------
    kind
        The configuration's class.
    file
        A YAML file with any of its keys.
    assignments
        `section.key=value` strings; values are YAML.
    flags
        Dotted keys and their values; None means that the flag was not given.

    Raises
    ------
    ConfigError
        The file cannot be read, keys are unknown or values do not fit; all problems at once.
    """
    merged: dict[str, Any] = {}
    if file is not None:
        merged = read_yaml(file)
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, e.g. --set optimiser.learning_rate=0.001")
        _assign(merged, key.strip(), _parse_value(assignment, text))
    for key, value in (flags or {}).items():
        if value is not None:
            _assign(merged, key, value)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        source = f"{file}" if file is not None else "the configuration"
        raise ConfigError(f"{source} cannot be used:", list(_explain(kind, error))) from error


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values; tags, aliases and duplicate keys are refused.

    Raises
    ------
    ConfigError
        It cannot be read, is larger than 100 kB or is no such mapping.
    """
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{file}: larger than {MAX_CONFIG_BYTES} bytes, which no configuration is.")
        content = _load_plain(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{file}: cannot be read ({reason}).") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: is not plain YAML ({' '.join(str(error).split())}).") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{file}: expected `key: value` lines at the top level.")
    return content


def write_yaml(config: Section) -> str:
    """Return the configuration as YAML that `read_yaml` and validation turn back into the same value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def describe(kind: type[Section], key: str) -> str:
    """Return the description of the field with the dotted `key`, the single source of help texts."""
    *sections, name = key.split(".")
    for section in sections:
        kind = _section_of(kind, section)
    return kind.model_fields[name].description or ""


def default_of(kind: type[Section], key: str) -> Any:
    """Return the default of the field with the dotted `key`; an empty text where it has none."""
    *sections, name = key.split(".")
    for section in sections:
        kind = _section_of(kind, section)
    field = kind.model_fields[name]
    return "" if field.is_required() else field.default


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"`{key}` is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


# PyYAML reads 1e-3 as text (YAML 1.1 wants 1.0e-3); people write it everywhere.
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def _load_plain(text: str) -> Any:
    # Nested aliases expand exponentially, deep nesting takes quadratic time; no configuration needs either.
    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise yaml.YAMLError("aliases are not allowed")
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > MAX_NESTING:
            raise yaml.YAMLError(f"nested more than {MAX_NESTING} levels deep")
    return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 (a SafeLoader)


def _parse_value(assignment: str, text: str) -> Any:
    try:
        return _load_plain(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not plain YAML.") from error


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, name = dotted.split(".")
    for section in sections:
        child = tree.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{dotted}: `{section}` is a value ({child!r}), and a section is needed there.")
        tree = child
    tree[name] = value


def _section_of(kind: type[Section], name: str) -> type[Section]:
    annotation = kind.model_fields[name].annotation
    if not (isinstance(annotation, type) and issubclass(annotation, Section)):
        raise KeyError(name)
    return annotation


def known_keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all fields of a configuration."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from known_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _explain(kind: type[Section], error: ValidationError) -> Iterator[str]:
    """Yield one line per wrong key; alternatives of a union (a number, or auto) become one line."""
    keys = list(known_keys(kind))
    sections = {key.rpartition(".")[0] for key in keys}
    seen: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for problem in error.errors(include_url=False):
        parts = [str(part) for part in problem["loc"]]
        while len(parts) > 1 and ".".join(parts) not in keys and problem["type"] != "extra_forbidden":
            parts.pop()
            if ".".join(parts) in sections:
                break
        key = ".".join(parts)
        values.setdefault(key, problem["input"])
        if problem["type"] == "extra_forbidden":
            nearest = _nearest_key(key, keys, sections)
            seen[key] = [f"unknown key{f'; did you mean `{nearest}`?' if nearest else ''}"]
        elif problem["type"] == "missing" and len(parts) == len(problem["loc"]):
            needed = _first_required(kind, key)
            seen[needed] = ["is needed and not given"]
        else:
            message = "too few values" if problem["type"] == "missing" else problem["msg"]
            seen.setdefault(key, []).append(message.replace("Input should be", "should be"))
    for key, messages in seen.items():
        given = "" if messages == ["is needed and not given"] else f" = {values[key]!r}"
        yield f"{key}{given}: {' or '.join(dict.fromkeys(messages))}"


def _first_required(kind: type[Section], key: str) -> str:
    """Return the setting that is missing where a whole section is: its first without a default."""
    if key not in kind.model_fields or key in set(known_keys(kind)):
        return key
    section = _section_of(kind, key)
    return next(f"{key}.{name}" for name, field in section.model_fields.items() if field.is_required())


def _nearest_key(key: str, keys: Sequence[str], sections: set[str]) -> str | None:
    known = [*keys, *(section for section in sections if section)]
    by_last_word = {name.rpartition(".")[2]: name for name in reversed(known)}
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    close_word = difflib.get_close_matches(key.rpartition(".")[2], by_last_word, n=1, cutoff=0.6)
    if close:
        return close[0]
    return by_last_word[close_word[0]] if close_word else None
