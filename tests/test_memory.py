"""Large blocks of memory are kept: tried in a process of its own, as it cannot be undone."""

import subprocess
import sys

import pytest

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
