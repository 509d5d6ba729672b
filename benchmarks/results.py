"""RESULTS.md: what evaluations on real data came to, beside published numbers.

    segkit evaluate --data dsb2018 --model runs/dsb2018 --set dihedral=true --out evaluation/dsb2018
    python benchmarks/results.py dsb2018=evaluation/dsb2018 [NAME=FOLDER ...] [--out RESULTS.md]

Each NAME is one of benchmarks/published.toml, which holds what no evaluation can know: published numbers, their
sources, and what is not comparable about them. Everything else comes from the folders (metrics.json, run.json, and the
run.json of the training beside the model) and from the Makefile, whose targets are the commands. A data set whose
folder is not given or holds no evaluation is named as not measured.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from making import REPOSITORY, machine
from results_rows import EVERY, Kind, Row, definitions_of, kind_of, missing_metrics, rows_of

from segkit.evaluation.confidence import LEVEL
from segkit.evaluation.markdown import cell
from segkit.files import write_text
from segkit.workflows.test_looks import TEST_SPLITS, read_looks

PUBLISHED = Path(__file__).with_name("published.toml")
HEADER = ("data set", "split", "images", "metric", f"segkit ({LEVEL:.0%} interval)", "published", "source")
NOT_MEASURED = "not measured"
KINDS: Mapping[Kind, str] = {"pixels": "Pixels and membranes", "objects": "Objects", "points": "Points"}


class Evaluation(NamedTuple):
    """What `segkit evaluate` left in a folder, and the record of the training of its model, if that is there.

    `looks` is how often the test set was looked at with models of this run, 0 where it was not.
    """

    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    training: Mapping[str, Any] | None
    looks: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="NAME=FOLDER", help="evaluations, by their names in the table")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "RESULTS.md")
    given = parser.parse_args()
    published = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    names = [entry["name"] for entry in published["results"]]
    folders = {}
    for text in given.folders:
        name, equals, folder = text.partition("=")
        if not equals or name not in names:
            parser.error(f"{text}: not NAME=FOLDER with a NAME of {PUBLISHED.name}, which are {', '.join(names)}")
        folders[name] = Path(folder)
    evaluations = {}
    for entry in published["results"]:
        folder = folders.get(entry["name"])
        evaluation = None if folder is None else read_evaluation(folder)
        if evaluation is None:
            print(f"{entry['name']}: not measured ({folder or 'no folder given'})", file=sys.stderr)
            continue
        if wrong := mismatch(entry, evaluation):
            sys.exit(f"{folder}: {wrong}")
        for metric in missing_metrics(evaluation.metrics, entry.get("metrics")):
            print(f"{entry['name']}: {metric}: not in this evaluation", file=sys.stderr)
        evaluations[entry["name"]] = evaluation
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    write_text(given.out, document(published, evaluations, makefile, machine()))
    print(f"{given.out}: {len(evaluations)} of {len(names)} evaluations")


def read_evaluation(folder: Path) -> Evaluation | None:
    """Return what is in a folder; None where there is no finished evaluation in it."""
    metrics, record = (_json(folder / name) for name in ("metrics.json", "run.json"))
    if metrics is None or record is None or not record.get("complete") or record.get("command") != "evaluate":
        return None
    run = Path(record["model"]).parent if "model" in record else None
    looks = len(read_looks(run)) if run is not None and record["settings"]["split"] in TEST_SPLITS else 0
    return Evaluation(metrics, record, None if run is None else _json(run / "run.json"), looks)


def _json(path: Path) -> Mapping[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def mismatch(entry: Mapping[str, Any], evaluation: Evaluation) -> str | None:
    """Return why an evaluation is not the one that a table of published.toml is about; None where it is."""
    split, kind = evaluation.record["settings"]["split"], kind_of(evaluation.metrics)
    if split != entry["split"]:
        return f"was measured on the split {split}; {entry['name']} is about {entry['split']}"
    if kind != entry["kind"]:
        return f"holds metrics of {kind}; {entry['name']} is about {entry['kind']}"
    return None


def document(
    published: Mapping[str, Any], evaluations: Mapping[str, Evaluation], makefile: str, written_on: str
) -> str:
    """Return RESULTS.md.

    Parameters
    ----------
    published
        The content of published.toml.
    evaluations
        By name; those that are missing are named as not measured.
    makefile
        The text of the Makefile, whose targets are the commands.
    written_on
        The machine, in a line.

    Raises
    ------
    ValueError
        A published number has a source that is not listed.
    """
    sources = {name: number for number, name in enumerate(published["sources"], start=1)}
    lines = [
        "# Results",
        "",
        "Made by `make results` from the folders that `segkit evaluate` left, and from `benchmarks/published.toml`, "
        "which has the published numbers and what is said about them. Nothing else is written by hand. "
        f"{intervals_in_words(list(evaluations.values()))} Minutes of training are wall time, whatever else was "
        f"running. Put together on: {written_on}.",
        "",
        "**No published number here was measured on the same images by the same rules**: what differs is said below "
        "for each data set. They show where ours lie, and are no ranking.",
        "",
        *table(published, evaluations, sources),
        "",
        *(f"[{number}] {in_words(published['sources'][name])}  " for name, number in sources.items()),
        "",
    ]
    title_of: dict[str, str] = {}  # whose commands stand where, by target
    for entry in published["results"]:
        lines += section(entry, evaluations.get(entry["name"]))
        if (target := entry["target"]) in title_of:
            lines += [f"Commands: those of {title_of[target]}, above.", ""]
        else:
            lines += [f"`make {target}`, or:", "", "```sh", *commands(makefile, target), "```", ""]
            title_of[target] = entry["title"]
    return "\n".join([*lines, *definitions(list(evaluations.values()))])


def in_words(source: Mapping[str, str]) -> str:
    return f"{source['text']}, {source['link']} ({source['seen']})"


def intervals_in_words(evaluations: Sequence[Evaluation]) -> str:
    """Return a sentence about the intervals, one for each way in which they were made."""
    ways = {
        f"{of['level']:.0%} intervals, {of['method']} over {of['over']}s, {of['samples']} samples, seed {of['seed']}"
        for of in (evaluation.metrics["intervals"] for evaluation in evaluations)
    }
    return f"In brackets: {'; '.join(sorted(ways))}." if ways else ""


def table(
    published: Mapping[str, Any], evaluations: Mapping[str, Evaluation], sources: Mapping[str, int]
) -> Iterator[str]:
    """Yield the lines of the one table."""
    yield f"| {' | '.join(HEADER)} |"
    yield "|---|---|---:|---|---|---|---|"
    for entry in published["results"]:
        for cells in cells_of(entry, evaluations.get(entry["name"]), sources):
            yield f"| {' | '.join(cells)} |"


def cells_of(
    entry: Mapping[str, Any], evaluation: Evaluation | None, sources: Mapping[str, int]
) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row of a data set; a published number without one of ours has a row, too."""
    beside: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in entry.get("published", ()):
        if one["source"] not in sources:
            raise ValueError(f"{entry['name']}: no source is called {one['source']}")
        beside.setdefault((one["metric"], one.get("part", EVERY)), []).append(one)
    wanted = entry.get("metrics")
    rows = [] if evaluation is None else list(rows_of(evaluation.metrics))
    rows = [row for row in rows if wanted is None or row.metric in wanted]
    keys = [*dict.fromkeys([(row.metric, row.part) for row in rows] + list(beside))]
    if not keys:
        yield (cell(entry["title"]), entry["split"], "", "", NOT_MEASURED, "", "")
    ours: Mapping[tuple[str, str], Row] = {(row.metric, row.part): row for row in rows}
    for metric, part in keys:
        row, others = ours.get((metric, part)), beside.get((metric, part), [])
        yield (
            cell(entry["title"]) + (f", {cell(part)}" if part else ""),
            entry["split"],
            "" if row is None else str(row.num_images),
            cell(metric),
            NOT_MEASURED if row is None else str(row.estimate),
            "; ".join(f"{one['of']} {one['value']}" for one in others),
            " ".join(dict.fromkeys(f"[{sources[one['source']]}]" for one in others)),
        )


def section(entry: Mapping[str, Any], evaluation: Evaluation | None) -> Iterator[str]:
    """Yield what is said about a data set: what is not comparable, and how ours came about."""
    yield f"## {entry['title']}"
    yield ""
    yield " ".join(entry["not_comparable"].split())
    yield ""
    yield f"{NOT_MEASURED.capitalize()}." if evaluation is None else provenance(evaluation)
    yield ""


def provenance(evaluation: Evaluation) -> str:
    """Return how the numbers came about: model, training, settings and versions."""
    record, training = evaluation.record, evaluation.training
    sentences = []
    if "model_sha256" in record:
        model = f"Model {record['model_sha256'][:12]}"
        sentences.append(model if training is None else f"{model}, {training_in_words(training)}")
        dihedral = record["settings"]["dihedral"]
        sentences.append("Predicted as the mean of 8 flips and turns" if dihedral else "Predicted once, as it is")
    if choice := evaluation.metrics.get("choice"):
        shared = {None: "", 0: ", none of the measured images among them"}.get(
            choice["num_measured_images_among_them"],
            f", {choice['num_measured_images_among_them']} of the measured images among them",
        )
        sentences.append(
            f"Thresholds: chosen in training on {choice['num_validation_images']} validation images{shared}"
        )
    membranes = evaluation.metrics.get("membranes") or {}
    if chosen := membranes.get("chosen_threshold"):
        sentences.append(f"Threshold of the cells: {chosen['threshold']:g}, chosen on {chosen['chosen_on']}")
    sentences.append(f"Evaluated {record['finished'][:10]}")
    if evaluation.looks:
        times = "once" if evaluation.looks == 1 else f"{evaluation.looks} times"
        sentences.append(f"The test rows were looked at {times} with models of this training")
    sentences.append(", ".join(f"{name} {version}" for name, version in record["versions"].items()))
    return ". ".join(sentences) + "."


def training_in_words(training: Mapping[str, Any]) -> str:
    stopped = ", stopped early" if training.get("stopped_early") else ""  # not in early versions
    return (
        f"trained in {training['seconds'] / 60:.0f} minutes ({training['epochs']} epochs{stopped}, of which number "
        f"{training['best_epoch']} was the best) with at most {training['peak_memory_bytes'] / 1e9:.1f} GB"
    )


def commands(makefile: str, target: str) -> Iterator[str]:
    """Yield the commands of a target, as they are typed where data folders lie beside.

    Raises
    ------
    ValueError
        There is no such target.
    """
    found = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    if found is None:
        raise ValueError(f"the Makefile has no target {target}")
    for line in found[1].splitlines():
        yield line.strip().replace("$(BIN)/", "").replace("$(REAL_DATA)/", "")


def definitions(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """Yield the definitions that the evaluations themselves give, once for each kind."""
    yield "## Definitions"
    yield ""
    yield "As metrics.json has them."
    yield ""
    for kind, title in KINDS.items():
        texts: dict[str, str] = {}
        for evaluation in evaluations:
            if kind_of(evaluation.metrics) == kind:
                texts |= definitions_of(evaluation.metrics)
        if texts:
            yield f"**{title}**"
            yield ""
            yield from (f"- {name}: {cell(text)}" for name, text in texts.items())
            yield ""


if __name__ == "__main__":
    main()
