"""How much memory there is, told from files like those of real machines; and that freed blocks are kept.

The latter is tried in a process of its own, as it cannot be undone.
"""

import ctypes
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.memory import MemoryLimit, memory_limit, parse_bytes, resident_bytes

PAGE = os.sysconf("SC_PAGE_SIZE")
GB, GIB = 10**9, 2**30
AVAILABLE_KB, RESIDENT_PAGES = 16_000_000, 1000
MACHINE = MemoryLimit(AVAILABLE_KB * 1024 + RESIDENT_PAGES * PAGE, "machine")

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory"
V1_OTHERS = [
    "23 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct",
    "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd",
]
UNLIMITED_V1 = str((2**63 - 1) // PAGE * PAGE)


def machine(root: Path, groups: str, *mounts: str, **limits: str) -> Path:
    """Write a machine's files; limits are paths below sys/fs/cgroup."""
    files = {
        "proc/meminfo": f"MemTotal:       32000000 kB\nMemFree: 1 kB\nMemAvailable:   {AVAILABLE_KB} kB\n",
        "proc/self/statm": f"20000 {RESIDENT_PAGES} 300 1 0 5000 0\n",
        "proc/self/cgroup": groups,
        "proc/self/mountinfo": "".join(f"{mount}\n" for mount in mounts),
        **{f"sys/fs/cgroup/{path}": f"{value}\n" for path, value in limits.items()},
    }
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


def test_a_machine_without_groups_has_what_is_available_and_what_the_process_has(tmp_path: Path) -> None:
    assert memory_limit(machine(tmp_path, "")) == MACHINE


def test_unlimited_groups_limit_nothing(tmp_path: Path) -> None:
    limits = {"memory.max": "max", "a/memory.max": "max", "a/memory.high": "max"}
    assert memory_limit(machine(tmp_path, "0::/a\n", V2, **limits)) == MACHINE


def test_a_group_larger_than_the_machine_limits_nothing(tmp_path: Path) -> None:
    assert memory_limit(machine(tmp_path, "0::/a\n", V2, **{"a/memory.max": str(64 * GIB)})) == MACHINE


@pytest.mark.parametrize(
    "limited", ["memory.max", "kube/memory.max", "kube/pod/memory.max", "kube/pod/c/memory.max", "kube/pod/memory.high"]
)
def test_version_2_takes_the_tightest_of_the_group_and_those_around_it(tmp_path: Path, limited: str) -> None:
    limits = {f"{group}memory.max": str(8 * GIB) for group in ("", "kube/", "kube/pod/", "kube/pod/c/")}
    limits |= {limited: str(2 * GIB), "kube/other/memory.max": str(GIB)}
    root = machine(tmp_path, "0::/kube/pod/c\n", V2, **limits)
    assert memory_limit(root) == MemoryLimit(2 * GIB, "cgroup")


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/\n", V2, **{"memory.max": str(3 * GIB), "memory.high": "max"})
    assert memory_limit(root) == MemoryLimit(3 * GIB, "cgroup")


def test_a_group_outside_of_the_container_is_not_followed(tmp_path: Path) -> None:
    # As after `docker exec` by another group: the path leads out, and `..` would end beside the cgroup folder.
    root = machine(tmp_path, "0::/../other\n", V2, **{"memory.max": str(3 * GIB), "../other/memory.max": str(GIB)})
    assert memory_limit(root) == MemoryLimit(3 * GIB, "cgroup")


@pytest.mark.parametrize("limited", ["", "slurm/", "slurm/job_1/", "slurm/job_1/step_0/"])
def test_version_1_likewise(tmp_path: Path, limited: str) -> None:
    limits = {f"memory/{group}memory.limit_in_bytes": UNLIMITED_V1 for group in ("", "slurm/", "slurm/job_1/")}
    limits |= {f"memory/{limited}memory.limit_in_bytes": str(GIB), "cpu/slurm/memory.limit_in_bytes": "5"}
    groups = "9:name=systemd:/x\n4:cpuset,memory:/slurm/job_1/step_0\n1:cpu,cpuacct:/slurm\n"
    assert memory_limit(machine(tmp_path, groups, *V1_OTHERS, V1, **limits)) == MemoryLimit(GIB, "cgroup")


def test_version_1_without_a_limit_is_unlimited(tmp_path: Path) -> None:
    limits = {"memory/memory.limit_in_bytes": UNLIMITED_V1, "memory/a/memory.limit_in_bytes": UNLIMITED_V1}
    assert memory_limit(machine(tmp_path, "4:memory:/a\n", V1, **limits)) == MACHINE


@pytest.mark.parametrize("shown", ["/docker/abc", "/somewhere/else"])
def test_a_container_of_version_1_names_groups_as_its_host_does(tmp_path: Path, shown: str) -> None:
    mount = V1.replace(" / /sys", f" {shown} /sys")
    root = machine(tmp_path, "4:memory:/docker/abc\n", mount, **{"memory/memory.limit_in_bytes": str(2 * GIB)})
    assert memory_limit(root) == MemoryLimit(2 * GIB, "cgroup")


def test_where_both_versions_are_mounted_both_count(tmp_path: Path) -> None:
    unified = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    limits = {"memory/a/memory.limit_in_bytes": str(4 * GIB), "unified/b/memory.max": str(3 * GIB)}
    root = machine(tmp_path, "4:memory:/a\n0::/b\n", *V1_OTHERS, V1, unified, **limits)
    assert memory_limit(root) == MemoryLimit(3 * GIB, "cgroup")


def test_blanks_and_colons_in_paths_are_understood(tmp_path: Path) -> None:
    mount = V2.replace("/sys/fs/cgroup", r"/sys/fs/cgroup/my\040groups")
    root = machine(tmp_path, "0::/a:b c\n", mount, **{"my groups/a:b c/memory.max": str(GIB)})
    assert memory_limit(root) == MemoryLimit(GIB, "cgroup")


@pytest.mark.parametrize("content", ["", "nonsense", "-1", "12 34"])
def test_a_limit_that_is_no_number_limits_nothing(tmp_path: Path, content: str) -> None:
    assert memory_limit(machine(tmp_path, "0::/\n", V2, **{"memory.max": content})) == MACHINE


@pytest.mark.parametrize("meminfo", [None, "MemTotal: 32000000 kB\n", "MemAvailable:\n"])
def test_without_a_word_of_what_is_free_the_whole_machine_counts(tmp_path: Path, meminfo: str | None) -> None:
    root = machine(tmp_path, "0::/\n", V2)
    (root / "proc/meminfo").unlink()
    if meminfo is not None:
        (root / "proc/meminfo").write_text(meminfo)
    assert memory_limit(root) == MemoryLimit(os.sysconf("SC_PHYS_PAGES") * PAGE, "machine")


def test_this_machine_has_more_than_this_process_takes() -> None:
    assert resident_bytes() < memory_limit().bytes <= 2 * os.sysconf("SC_PHYS_PAGES") * PAGE


def test_resident_memory_grows_with_what_is_written_to() -> None:
    before = resident_bytes()
    block = bytearray(b"x") * 100_000_000
    assert 95_000_000 < resident_bytes() - before < 150_000_000
    assert len(block) == 100_000_000


def test_without_proc_the_most_that_was_resident_is_told(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path) >= resident_bytes() * 0.9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GB", 4 * GB),
        ("500MB", 500_000_000),
        ("2GiB", 2 * GIB),
        ("1.5G", 1_500_000_000),
        ("1234567", 1_234_567),
        ("12 b", 12),
        (" 4 gb ", 4 * GB),
        ("8Gi", 8 * GIB),
        (".5k", 500),
        ("1.TiB", 2**40),
        ("1.1GB", 1_100_000_000),
        ("0.0015kB", 1),
    ],
)
def test_amounts_of_memory_are_understood(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "GB", ".", "-4GB", "+4GB", "4 G B", "4iB", "4PB", "1e9", "nan", "inf", "4,5GB", "٤GB", "4GBs", "1_000"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no amount of memory"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["0", "0GB", "0.9"])
def test_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="less than one byte"):
        parse_bytes(text)


@given(
    st.integers(1, 10**7),
    st.integers(0, 6),
    st.sampled_from(["", "k", "M", "G", "T"]),
    st.sampled_from(["", "i"]),
    st.sampled_from(["", "B"]),
)
@settings(max_examples=50, deadline=None)
def test_amounts_are_exact(digits: int, decimals: int, unit: str, binary: str, b: str) -> None:
    number = f"{digits // 10**decimals}.{digits % 10**decimals:0{decimals}}" if decimals else str(digits)
    power = ["", "k", "M", "G", "T"].index(unit)
    expected = Fraction(digits, 10**decimals) * (1024 if binary and unit else 1000) ** power
    text = f"{number}{unit}{binary if unit else ''}{b}"
    if expected < 1:
        with pytest.raises(ValueError, match="less than one byte"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == int(expected)


PROGRAM = """
import resource, sys
import numpy as np
from segkit.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(2**25)  # 256 MB, all of it written to, and freed
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(word: str) -> int:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True, timeout=120
    )
    return int(ended.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_that_was_freed_is_used_again() -> None:
    assert page_faults("keep") * 10 < page_faults("give back")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc only")
def test_holes_between_what_is_kept_are_given_back() -> None:
    program = """
from segkit.memory import give_back_freed_memory, keep_freed_memory, resident_bytes
keep_freed_memory()
blocks = [bytes(100_000) for _ in range(2_000)]
del blocks[1::2], blocks[1::2], blocks[1::2]
before = resident_bytes()
give_back_freed_memory()
print(before - resident_bytes(), len(blocks))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    given_back, kept = map(int, done.stdout.split())
    assert kept == 250
    assert given_back > 100_000_000
