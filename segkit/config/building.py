"""Building a configuration from flags, `key=value` assignments, a YAML file and defaults, in this order of precedence.

Unknown keys and wrong values are reported all at once, with the nearest known key.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from segkit.config.sections import AUTO, Section
from segkit.errors import ConfigError

MAX_CONFIG_BYTES = 100_000
MAX_NESTING = 20
ConfigT = TypeVar("ConfigT", bound=Section)


def build_config(
    kind: type[ConfigT],
    *,
    base: Path | None = None,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Merge defaults, YAML files, `key=value` assignments and flags (the later win) and validate the result.

    Parameters
    ----------
    kind
        The configuration's class.
    base
        A YAML file that was resolved before: what it holds stays where `file` says nothing, or `auto`.
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
    merged = {} if base is None else read_yaml(base)
    if file is not None:
        merged = _laid_over(merged, read_yaml(file)) if merged else read_yaml(file)
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


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of settings with those of another that are not `auto` put over it."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping):
            merged[key] = _laid_over(below[key], value)
        elif value != AUTO or key not in below:
            merged[key] = value
    return merged


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
        elif problem["type"] == "model_type":
            first = next(name for name in keys if name.startswith(f"{key}."))
            seen[key] = [f"is a section, with settings of its own such as `{first}`, and no value"]
        else:
            message = "too few values" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
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
