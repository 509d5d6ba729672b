"""The script for QuPath: run by Groovy on stand-ins for the classes of QuPath that it calls.

The stand-ins (qupath_stand_ins/) have names and signatures of QuPath 0.5.1, 0.6.0 and 0.7.0 as far as the script calls
them, read off their sources, and note what is done with them.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segkit.data.listing import name_of
from segkit.inference.detection_outputs import write_detections
from segkit.masks import colour_of_class
from segkit.points import Detections
from segkit.slides.geojson import GeoJSONWriter

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "qupath"
SCRIPT = FOLDER / "load_segkit.groovy"
STAND_INS = Path(__file__).resolve().parent / "qupath_stand_ins"
GROOVY, JAVA = shutil.which("groovy"), shutil.which("java")
needs_groovy = pytest.mark.skipif(GROOVY is None or JAVA is None, reason="groovy is not installed")

CLASSES = ("background", "tumour", 'small "cell": a\\b, é')
SQUARE = np.array([[1, 1], [5, 1], [5, 5], [1, 5]])
HOLE = np.array([[2, 2], [3, 2], [3, 3], [2, 3]])


@dataclass(kw_only=True)
class Scene:
    """An image in QuPath, what QuPath knows, and how the script is set and called."""

    settings: dict[str, Any] = field(default_factory=dict)
    args: list[str] = field(default_factory=list)
    uris: list[str] = field(default_factory=lambda: ["file:/slides/slide%20a.ome.tif"])
    name: str = "slide a.ome.tif"
    entry: str | None = None
    width: int = 400
    height: int = 300
    mpp: float | None = 0.5
    objects: list[dict[str, Any]] = field(default_factory=list)
    colours: dict[str, list[int]] = field(default_factory=dict)
    is_open: bool = True
    has_window: bool = True
    has_project: bool = False
    shows_another: bool = False
    times: int = 1


def write_result(folder: Path, *, complete: bool = True, mpp: float | None = 0.5, key: str = "models") -> Path:
    """Write what the commands leave, as far as the script reads it."""
    model = {"file": "m.safetensors", "sha256": "0", "classes": list(CLASSES)}
    record = {
        "slide": {"height": 300, "width": 400, "mpp": mpp, "properties": {}},
        key: [model] if key == "models" else model,
        "plan": {"downsample": 2.0, "region": {"x": 10, "y": 20, "width": 100, "height": 50}},
        "complete": complete,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def write_objects(folder: Path) -> list[dict[str, Any]]:
    """Write five objects, two of them of the second class; return their geometries."""
    with GeoJSONWriter(folder / "objects.geojson") as geojson:
        for number in range(5):
            index = 1 if number % 2 == 0 else 2
            rings = [SQUARE + 10 * number, HOLE + 10 * number] if number == 1 else [SQUARE + 10 * number]
            geojson.add_polygon(
                rings,
                label=CLASSES[index],
                colour=colour_of_class(index),
                object_type="detection",
                measurements={"Area px": 16.0 + number},
            )
    return [one["geometry"] for one in json.loads((folder / "objects.geojson").read_text())["features"]]


OBJECTS = ("plain", "batches", "again", "annotations", "project", "entry", "own form", "kept colours", "old record")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    out = tmp_path_factory.mktemp("qupath") / "predic tions"
    folder = write_result(out / "slide a")
    write_objects(folder)
    Image.fromarray(np.array([[0, 255], [100, 200]], np.uint8)).save(folder / "probability.tif", format="PNG")
    write_detections(
        write_result(out / "points"),
        Detections(np.array([[7.5, 9.25], [30, 40]]), np.array([2, 1]), np.array([0.9, 0.75])),
        CLASSES,
        0.5,
    )
    write_objects(write_result(out / "single", key="model"))
    write_result(out / "unfinished", complete=False)
    write_result(out / "nothing")
    write_objects(write_result(out / "no_mpp", mpp=None))
    indented = write_result(out / "indented")
    write_objects(indented)
    content = json.loads((indented / "objects.geojson").read_text())
    (indented / "objects.geojson").write_text(json.dumps(content, indent=2))
    own = {"kind": "annotation", "label": "tumour", "metadata": {}}
    here = {"results": f'"{out}"'}

    def of(stem: str, **how: Any) -> Scene:
        return Scene(**{"uris": [f"file:/slides/{stem}.svs"], "settings": here, **how})

    return {
        "plain": Scene(settings=here, colours={"tumour": [1, 2, 3]}),
        "batches": Scene(settings=here | {"batchSize": 2}),
        "again": Scene(settings=here, times=3, objects=[own, own | {"label": None}]),
        "not replaced": Scene(settings=here | {"replaceEarlier": "false"}, times=2),
        "annotations": Scene(settings=here | {"loadAs": '"annotation"'}),
        "kept colours": Scene(settings=here | {"setColours": "false"}, colours={"tumour": [1, 2, 3]}),
        "project": Scene(args=[str(out)], has_window=False, has_project=True),
        "entry": Scene(settings=here, uris=[], name="masked", entry="slide a.tif"),
        "old record": of("single"),
        "own form": of("indented"),
        "points": of("points"),
        "overlay": Scene(settings=here | {"showProbability": "true"}),
        "overlay elsewhere": Scene(settings=here | {"showProbability": "true"}, shows_another=True),
        "overlay without a window": Scene(settings=here | {"showProbability": "true"}, has_window=False),
        "no overlay": of("points", settings=here | {"showProbability": "true"}),
        "other mpp": Scene(settings=here, mpp=0.25),
        "nearly the mpp": Scene(settings=here, mpp=0.503),
        "no mpp here": Scene(settings=here, mpp=None),
        "no mpp there": of("no_mpp"),
        "closed": Scene(settings=here, is_open=False),
        "wrong kind": Scene(settings=here | {"loadAs": '"cell"'}),
        "nowhere": Scene(),
        "unknown": of("another slide".replace(" ", "%20"), name="b.tif"),
        "unfinished": of("unfinished"),
        "other size": Scene(settings=here, width=300, height=400),
        "nothing": of("nothing"),
    }


@pytest.fixture(scope="module")
def results(scenes: dict[str, Scene], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what has become of each scene; all of them in one process, which takes seconds to start."""
    assert GROOVY is not None
    assert JAVA is not None
    folder = tmp_path_factory.mktemp("groovy")
    (folder / "scenes.json").write_text(json.dumps([asdict(scene) for scene in scenes.values()]))
    environ = {"JAVA_HOME": str(Path(JAVA).resolve().parents[1]), **os.environ}
    ended = subprocess.run(
        [
            GROOVY,
            "-cp",
            STAND_INS,
            STAND_INS / "driver.groovy",
            SCRIPT,
            folder / "scenes.json",
            folder / "results.json",
        ],
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return dict(zip(scenes, json.loads((folder / "results.json").read_text()), strict=True))


Results = dict[str, dict[str, Any]]


@needs_groovy
@pytest.mark.parametrize("scene", OBJECTS)
def test_objects_are_loaded_as_they_are(results: Results, tmp_path: Path, scene: str) -> None:
    found = results[scene]
    loaded = [one for one in found["objects"] if "segkit" in one["metadata"]]
    assert [one["geometry"] for one in loaded] == write_objects(tmp_path)
    assert [one["label"] for one in loaded] == [CLASSES[1], CLASSES[2], CLASSES[1], CLASSES[2], CLASSES[1]]
    assert [one["measurements"] for one in loaded] == [{"Area px": 16.0 + number} for number in range(5)]
    is_annotation = scene == "annotations"
    assert {one["kind"] for one in loaded} == {"annotation" if is_annotation else "detection"}
    assert {one["locked"] for one in loaded} == {is_annotation}
    assert found["colours"][CLASSES[1]] == ([1, 2, 3] if scene == "kept colours" else list(colour_of_class(1)))
    assert found["colours"][CLASSES[2]] == list(colour_of_class(2))
    assert found["updates"] >= 1
    assert found["said"][-1].startswith("segkit: ")
    assert (
        f"loaded 5 {'annotation' if is_annotation else 'detection'}s ({CLASSES[2]} 2, tumour 3) from "
        in found["said"][-1]
    )


@needs_groovy
def test_no_more_objects_are_read_at_once_than_asked_for(results: Results) -> None:
    assert results["batches"]["read"] == results["batches"]["added"] == [2, 2, 1]
    assert results["plain"]["read"] == [5]
    assert results["own form"]["read"] == [5]  # as a whole, whatever the size of a batch


@needs_groovy
def test_run_again_it_replaces_what_it_has_loaded_and_nothing_else(results: Results) -> None:
    again = results["again"]
    assert len(again["objects"]) == 2 + 5
    assert [one["kind"] for one in again["objects"][:2]] == ["annotation", "annotation"]
    assert again["said"][1] == "segkit: took away 5 objects that were loaded before."
    assert len(results["not replaced"]["objects"]) == 10


@needs_groovy
def test_points_are_loaded_with_their_scores(results: Results) -> None:
    loaded = results["points"]["objects"]
    assert [one["geometry"] for one in loaded] == [
        {"type": "Point", "coordinates": [9.25, 7.5]},
        {"type": "Point", "coordinates": [40, 30]},
    ]
    assert [one["measurements"] for one in loaded] == [{"Score": 0.9}, {"Score": 0.75}]


@needs_groovy
def test_classes_are_offered_in_the_window_or_the_project(results: Results) -> None:
    assert sorted(results["plain"]["available"]) == sorted(CLASSES[1:])
    assert results["plain"]["in_project"] == []
    assert sorted(results["project"]["in_project"]) == sorted(CLASSES[1:])
    assert results["project"]["is_synced"]


@needs_groovy
def test_the_probability_is_laid_over_its_place(results: Results) -> None:
    found = results["overlay"]
    assert found["place"] == [20, 40, 200, 100, 0, 0]
    assert found["is_shown"]
    pixels = np.array(found["pixels"], np.int64).astype(np.uint32)
    np.testing.assert_array_equal(pixels >> 24, [[0, 191], [75, 150]])  # opacity
    assert {int(pixel) & 0xFFFFFF for pixel in pixels.flat if pixel >> 24} == {0xD55E00}
    assert len(found["objects"]) == 5
    for other in ("overlay elsewhere", "overlay without a window", "no overlay", "plain"):
        assert results[other]["place"] is None
        assert results[other]["objects"]
    assert "has no probability.tif" in results["no overlay"]["said"][-1]


@needs_groovy
@pytest.mark.parametrize(
    ("scene", "said"),
    [
        ("other mpp", r"pixels are 0\.25 um in QuPath and 0\.5 um in segkit"),
        ("no mpp here", r"no pixel size in QuPath.*setPixelSizeMicrons\(0\.5, 0\.5\)"),
        ("nearly the mpp", None),
        ("no mpp there", None),
        ("plain", None),
    ],
)
def test_another_scale_is_said_and_no_obstacle(results: Results, scene: str, said: str | None) -> None:
    assert len(results[scene]["objects"]) == 5
    *before, last = results[scene]["said"]
    assert "loaded 5 detections" in last
    assert len(before) == (said is not None)
    assert said is None or re.search(said, before[0])


@needs_groovy
@pytest.mark.parametrize(
    ("scene", "said"),
    [
        ("closed", "no image is open. Open one, or use Run > Run for project."),
        ("wrong kind", "loadAs is 'cell', and has to be 'detection' or 'annotation'."),
        ("nowhere", "where are the results. Set `results`"),
        ("unknown", r"another slide\.svs: no results in .*predic tions \(looked for a .*called another slide, b\)\."),
        ("unfinished", "unfinished: is not finished. Give segkit the same command again"),
        ("other size", "is of an image of 400 x 300 pixels, and this one has 300 x 400. Nothing is loaded"),
        ("nothing", r"has no objects\.geojson and no detections\.geojson"),
    ],
)
def test_what_cannot_be_loaded_is_said_and_changes_nothing(results: Results, scene: str, said: str) -> None:
    (line,) = results[scene]["said"]
    assert re.match(f"segkit: .*{said}", line)
    assert results[scene]["objects"] == []
    assert results[scene]["updates"] == 0


def test_the_script_knows_how_segkit_writes(tmp_path: Path) -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    write_objects(tmp_path)
    lines = (tmp_path / "objects.geojson").read_text(encoding="utf-8").splitlines()
    assert f"FIRST_LINE = '{lines[0]}'" in text
    assert lines[-1] == "]}"
    assert len(lines) == 5 + 2
    assert name_of(Path("slide a.ome.tif")) == "slide a"  # as stemOf in the script


def test_its_readme_names_what_is_there() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in FOLDER.iterdir() if f"({path.name})" not in text] == ["README.md"]
    assert "`results`" in text
