"""The only door to writing: a path with its final name is whole at any moment."""

import csv
import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit import files
from segkit.errors import ResourceError, SegkitError, UsageError

OLD, NEW = b"old content", b"new content, longer than the old one"


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_file_is_written_whole_with_its_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file.bin"
    files.write_bytes(target, NEW)
    assert target.read_bytes() == NEW
    assert leftovers(target.parent) == []


def test_an_error_in_the_body_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(OLD)

    def write_and_fail() -> None:
        with files.atomic_path(target) as temporary:
            temporary.write_bytes(NEW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert target.read_bytes() == OLD
    assert leftovers(tmp_path) == []


class FailingCalls:
    """Counts the operating-system calls behind a write and lets the one with number `fail_at` fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int, number: int) -> None:
        self.calls = 0
        self._fail_at = fail_at
        self._error_number = number
        for owner, name in ((os, "fsync"), (Path, "mkdir"), (Path, "open"), (Path, "replace")):
            monkeypatch.setattr(owner, name, self._failing(getattr(owner, name)))

    def _failing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self._fail_at:
                raise OSError(self._error_number, os.strerror(self._error_number))
            return original(*arguments, **options)

        return call


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, ResourceError), (errno.EDQUOT, ResourceError), (errno.EROFS, UsageError), (errno.EIO, OSError)],
)
def test_whichever_call_fails_the_file_is_the_old_or_the_new_one(
    tmp_path: Path, number: int, kind: type[Exception]
) -> None:
    target = tmp_path / "file.bin"
    messages = []
    for fail_at in range(1, 20):
        target.write_bytes(OLD)
        with pytest.MonkeyPatch.context() as monkeypatch:
            counter = FailingCalls(monkeypatch, fail_at, number)
            try:
                files.write_bytes(target, NEW)
                messages.append("")
            except kind as error:
                messages.append(str(error))
        assert target.read_bytes() == (OLD if messages[-1] else NEW)
        assert leftovers(tmp_path) == []
        if counter.calls < fail_at:
            break
    assert len(messages) > 4
    assert messages[-1] == ""
    if issubclass(kind, SegkitError):
        assert all(message.startswith(str(target)) for message in messages if message)


def test_a_write_over_the_limit_of_the_system_is_a_resource_error(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(OLD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ResourceError, match="the disk is full"):
            files.write_bytes(target, bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert target.read_bytes() == OLD
    assert leftovers(tmp_path) == []


WRITE_FOREVER = """
import sys
from pathlib import Path
from segkit import files
target = Path(sys.argv[1])
for number in range(10**9):
    files.write_bytes(target, bytes([number % 256]) * 3_000_000)
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    for milliseconds in (0, 1, 2, 3, 5, 7, 11, 13):
        writer = run_python(WRITE_FOREVER, target)
        assert writer.stdout is not None
        writer.stdout.readline()  # the first version is there
        time.sleep(milliseconds / 1000)
        writer.kill()
        writer.communicate()
        content = target.read_bytes()
        assert len(content) == 3_000_000
        assert len(set(content)) == 1
    files.remove_leftovers(tmp_path)
    assert leftovers(tmp_path) == []


def write_folder(target: Path, content: bytes) -> None:
    with files.atomic_folder(target) as add:
        add("top", content)
        add("a/b/deep", content)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_written_whole_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    target = tmp_path / "a" / "map.zarr"
    with files.atomic_folder(target) as add:
        add("other", OLD)
        assert not target.exists()
    write_folder(target, NEW)
    assert content_of(target) == {"top": NEW, "a/b/deep": NEW}
    assert list(target.parent.iterdir()) == [target]


def test_an_error_in_the_body_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "map.zarr"
    write_folder(target, OLD)

    def write_and_fail() -> None:
        with files.atomic_folder(target) as add:
            add("top", NEW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert content_of(target) == {"top": OLD, "a/b/deep": OLD}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_whichever_call_fails_the_folder_is_the_old_or_the_new_one(tmp_path: Path, number: int) -> None:
    target = tmp_path / "map.zarr"
    failures = 0
    for fail_at in range(1, 50):
        write_folder(target, OLD)
        with pytest.MonkeyPatch.context() as monkeypatch:
            counter = FailingCalls(monkeypatch, fail_at, number)
            try:
                write_folder(target, NEW)
                failed = False
            except SegkitError:
                failed = True
        expected = OLD if failed else NEW
        assert content_of(target) == {"top": expected, "a/b/deep": expected}
        assert list(tmp_path.iterdir()) == [target]
        failures += failed
        if counter.calls < fail_at:
            break
    assert not failed
    assert failures > 8


def test_a_file_or_a_link_in_the_way_of_a_folder(tmp_path: Path) -> None:
    blocker, link, real = tmp_path / "blocker", tmp_path / "link", tmp_path / "real"
    blocker.write_bytes(OLD)
    with pytest.raises(UsageError, match="cannot be written"):
        write_folder(blocker, NEW)
    assert blocker.read_bytes() == OLD
    write_folder(real, OLD)
    link.symlink_to(real)
    write_folder(link, NEW)
    assert content_of(real)["top"] == OLD  # the link was replaced, not what it leads to
    assert content_of(link)["top"] == NEW
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocker", "link", "real"]


WRITE_FOLDERS_FOREVER = """
import sys
from pathlib import Path
from segkit import files
for number in range(10**9):
    with files.atomic_folder(Path(sys.argv[1])) as add:
        for name in range(20):
            add(str(name), bytes([number % 256]) * 1000)
    print(number, flush=True)
"""


def test_a_killed_writer_of_folders_leaves_a_whole_one_or_none(tmp_path: Path) -> None:
    target = tmp_path / "map.zarr"
    for milliseconds in (0, 2, 5, 11):
        writer = run_python(WRITE_FOLDERS_FOREVER, target)
        assert writer.stdout is not None
        writer.stdout.readline()  # the first version is there
        time.sleep(milliseconds / 1000)
        writer.kill()
        writer.communicate()
        if target.exists():
            content = content_of(target)
            assert len(content) == 20
            assert len(set(content.values())) == 1
        files.remove_leftovers(tmp_path)
        assert leftovers(tmp_path) == []


def test_a_link_that_is_left_over_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    write_folder(tmp_path / "run", OLD)
    (tmp_path / ".latest.1234.partial").symlink_to(tmp_path / "run")
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert content_of(tmp_path / "run")["top"] == OLD


def test_only_temporary_files_are_leftovers(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("mask.tif", ".mask.tif.123.partial", ".hidden", "notes.partial", "checkpoints/.a.pt.4.partial"):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path)
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == [".hidden", "checkpoints", "mask.tif", "notes.partial"]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_target_below_a_file_is_a_usage_error(tmp_path: Path, below: str) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_bytes(OLD)
    with pytest.raises(UsageError, match="cannot be written"):
        files.write_bytes(blocker / below / "file.bin", NEW)
    assert blocker.read_bytes() == OLD


def test_a_target_that_is_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        files.write_bytes(tmp_path, NEW)


def test_a_name_that_is_too_long_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        files.write_bytes(tmp_path / ("n" * 300), NEW)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_has_no_numbers_that_are_not_finite(tmp_path: Path, number: float) -> None:
    target = tmp_path / "run.json"
    files.write_json(target, {"dice": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(target, {"dice": number})
    assert json.loads(target.read_text()) == {"dice": 1.0}


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


@given(st.lists(st.fixed_dictionaries({}, optional={"image": cells, "dice": st.floats(allow_nan=False)}), max_size=5))
def test_csv_rows_read_back_as_written(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    target = tmp_path_factory.mktemp("csv") / "metrics.csv"
    files.write_csv(target, rows, ["image", "dice"])
    with target.open(newline="") as handle:
        read = list(csv.DictReader(handle))
    assert [row["image"] for row in read] == [row.get("image", "") for row in rows]
    assert [row["dice"] for row in read] == [str(row["dice"]) if "dice" in row else "" for row in rows]


def test_an_unknown_column_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="extra"):
        files.write_csv(tmp_path / "metrics.csv", [{"extra": 1}], ["image"])
    assert list(tmp_path.iterdir()) == []


def test_a_prepared_folder_is_there_and_empty(tmp_path: Path) -> None:
    folder = files.prepare_folder(tmp_path / "a" / "b")
    assert list(folder.iterdir()) == []


def test_what_a_folder_is_tried_with_is_a_leftover_if_the_process_is_killed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        files.prepare_folder(tmp_path)
    assert len(leftovers(tmp_path)) == 1
    files.remove_leftovers(tmp_path)
    assert leftovers(tmp_path) == []


def test_jobs_of_the_same_process_number_do_not_trip_each_other_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In containers all are number 1; and whoever holds the folder clears away what looks left over."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    honest = Path.write_bytes

    def write_bytes(path: Path, content: bytes) -> int:
        written = honest(path, content)
        files.remove_leftovers(tmp_path)
        return written

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    files.prepare_folder(tmp_path)
    assert leftovers(tmp_path) == []


def test_a_file_where_a_folder_is_needed_is_a_usage_error(tmp_path: Path) -> None:
    blocker = tmp_path / "out"
    blocker.touch()
    with pytest.raises(UsageError, match="is a file"):
        files.prepare_folder(blocker)
    with pytest.raises(UsageError, match="cannot be written"):
        files.prepare_folder(blocker / "deeper")


def test_a_folder_on_a_read_only_disk_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FailingCalls(monkeypatch, fail_at=2, number=errno.EROFS)  # 1: mkdir, 2: the probe file
    with pytest.raises(UsageError, match="Choose another --out"):
        files.prepare_folder(tmp_path)


HOLD_LOCK = """
import sys, time
from pathlib import Path
from segkit import files
with files.folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_writer_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    holder = run_python(HOLD_LOCK, tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match="another segkit process"), files.folder_lock(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with files.folder_lock(tmp_path):
        pass


def test_the_hash_is_sha_256(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"abc")  # the example of FIPS 180-2
    assert files.sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    files.require_free_bytes(tmp_path / "not" / "there" / "yet", 1, "a byte")
    with pytest.raises(ResourceError, match=r"a prediction needs about 1000000\.0 TB"):
        files.require_free_bytes(tmp_path, 10**18, "a prediction")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (2e9, "2.0 GB"), (3.2e15, "3200.0 TB")],
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert files.format_bytes(count) == text


def test_a_link_is_replaced_and_never_a_folder(tmp_path: Path) -> None:
    link, folder = tmp_path / "latest", tmp_path / "folder"
    for name in ("first", "second"):
        files.point_link(link, name)
        assert link.readlink() == Path(name)
    folder.mkdir()
    files.point_link(folder, "first")
    assert not folder.is_symlink()


def test_a_log_grows_by_lines(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    files.append_line(log, "one")
    files.append_line(log, "two")
    assert log.read_text() == "one\ntwo\n"
    with pytest.raises(UsageError, match="cannot be written"):
        files.append_line(tmp_path, "three")
