"""The house: which room imports which, where torch lives, and the few doors through which dangerous things go."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import segkit

PACKAGE = Path(segkit.__file__).parent
MODULES = {
    ".".join(("segkit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}

FOUNDATION = {"config", "versions", "masks", "points", "geometry", "files", "memory", "errors"}
MIDDLE = {"data", "models", "slides"}
ENGINES = {"training", "inference", "report", "evaluation", "viewer"}
MAY_IMPORT = {
    "errors": set(),
    "versions": set(),
    "masks": set(),
    "points": set(),
    "memory": set(),
    "geometry": set(),
    "files": {"errors"},
    "config": {"errors", "memory"},
    "slides": FOUNDATION,
    "models": FOUNDATION,
    "data": FOUNDATION | {"slides"},
    "inference": FOUNDATION | MIDDLE,
    "evaluation": FOUNDATION | MIDDLE,
    "report": FOUNDATION | MIDDLE,
    "viewer": FOUNDATION | {"slides"},
    "training": FOUNDATION | MIDDLE | {"inference", "evaluation"},
    "workflows": FOUNDATION | MIDDLE | ENGINES,
    "cli": FOUNDATION | MIDDLE | ENGINES | {"workflows"},
}
WITHOUT_TORCH = (
    "slides",
    "geometry",
    "files",
    "errors",
    "evaluation",
    "masks",
    "points",
    "memory",
    "config",
    "report",
    "data",
    "viewer",
)
MAX_LINES = 400

# What reads can run code and what writes can leave half a file: each has one door.
DOORS = {
    r"torch\.(load|save)": {"segkit.training.checkpoint", "segkit.models.torchvision_door"},
    r"pickle\..*|marshal\..*|shelve\..*|joblib\..*|np\.load|numpy\.load": set(),
    r"yaml\.(load|unsafe_load|full_load|load_all)": {"segkit.config.building"},
    r".*\.extractall|shutil\.unpack_archive": set(),
    r"eval|exec|compile|__import__": set(),
    r"os\.(system|popen)|subprocess\..*": set(),
    r"(?!files\.).*\.(write_text|write_bytes)": {"segkit.files"},
    r"os\.(replace|rename)|shutil\.(move|copy.*)": {"segkit.files"},
}
OWN_WRITERS = re.compile(r".*(savefig|save_file|TiffWriter|imwrite|imsave|\.save)")
PRINTING = re.compile(r"print|sys\.(exit|stdout.*|stderr.*)")


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def in_room(module: str, *rooms: str) -> bool:
    return room_of(module) in rooms


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def calls_of(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call with the dotted text of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def opens_for_writing(name: str, call: ast.Call) -> bool:
    if name != "open" and not name.endswith(".open"):
        return False
    values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return any(re.fullmatch(r"[rwaxbt+]+", mode) and set(mode) & set("wax+") for mode in modes)


INTERNAL = {
    name: {imported for imported in imports_of(tree) if imported.split(".")[0] == "segkit"}
    for name, tree in TREES.items()
}


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) not in {"", "__main__"}])
def test_a_room_imports_only_rooms_below_it(module: str) -> None:
    room = room_of(module)
    rooms = {room_of(imported) for imported in INTERNAL[module]} - {room, ""}
    assert rooms <= MAY_IMPORT[room]


def test_every_room_is_known() -> None:
    assert {room_of(name) for name in MODULES} - {"", "__main__"} == set(MAY_IMPORT)


def test_there_are_no_cycles() -> None:
    # `import segkit.x` in a module of the package also runs segkit/__init__, which is the way in and not a room.
    graph = {name: imported - {"segkit", name} for name, imported in INTERNAL.items() if name != "segkit"}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(graph)


def test_rooms_without_torch_cannot_reach_it() -> None:
    importers = {
        name
        for name, tree in TREES.items()
        if {one.split(".")[0] for one in imports_of(tree)} & {"torch", "torchvision"}
    }
    reached = set(importers)
    while more := {name for name, imported in INTERNAL.items() if imported & reached} - reached:
        reached |= more
    assert not [name for name in reached if in_room(name, *WITHOUT_TORCH)]


@pytest.mark.parametrize("pattern", DOORS)
def test_what_is_dangerous_goes_through_one_door(pattern: str) -> None:
    users = {name for name, tree in TREES.items() for called, _ in calls_of(tree) if re.fullmatch(pattern, called)}
    assert users <= DOORS[pattern]


def test_modules_that_run_code_or_reach_the_network_are_not_imported() -> None:
    dangerous = {"pickle", "marshal", "shelve", "dill", "joblib", "subprocess", "socket", "urllib", "requests"}
    users = {(name, one) for name, tree in TREES.items() for one in imports_of(tree) if one.split(".")[0] in dangerous}
    assert users <= {
        ("segkit.training.checkpoint", "pickle"),  # for the name of the error that torch.load raises
        # `segkit view --install-viewer`, and the build: one package, checked by its hash before it is unpacked.
        ("segkit.viewer.openseadragon", "urllib.error"),
        ("segkit.viewer.openseadragon", "urllib.request"),
    }


def test_files_are_opened_for_writing_by_the_door_or_under_its_temporary_name() -> None:
    for name, tree in TREES.items():
        writes = any(
            opens_for_writing(called, call) or OWN_WRITERS.fullmatch(called) for called, call in calls_of(tree)
        )
        if writes and name != "segkit.files":
            text = MODULES[name].read_text(encoding="utf-8")
            assert "atomic_path(" in text or "BytesIO(" in text, f"{name} writes a file of its own"


def test_only_the_command_line_prints_or_ends_the_process() -> None:
    for name, tree in TREES.items():
        if in_room(name, "cli", "__main__"):
            continue
        assert not {one.split(".")[0] for one in imports_of(tree)} & {"rich", "typer"}, name
        assert not [called for called, _ in calls_of(tree) if PRINTING.fullmatch(called)], name


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_read_in_one_sitting(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_no_exception_is_swallowed() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                silent = all(isinstance(one, ast.Pass | ast.Continue) for one in node.body)
                assert not (silent and (node.type is None or ast.unparse(node.type).endswith("Exception"))), name
