"""Workers: as many as there are cores to spare and room for their batches."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.training.loading import (
    MOST_WORKERS,
    PREFETCH,
    choose_workers,
    fit_shared_memory,
    usable_cores,
    waiting_advice,
)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 16),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ({"cpu.max": "rubbish"}, 16),
    ],
)
def test_a_containers_quota_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    assert usable_cores(tmp_path) == cores


def test_a_gpu_gets_the_cores_that_are_left_and_a_processor_a_quarter_of_them() -> None:
    assert [choose_workers("cpu", cores=cores) for cores in (1, 2, 3, 4, 16, 64)] == [0, 0, 0, 1, 4, MOST_WORKERS]
    assert choose_workers("cpu", cores=16, processes=4) == 1
    assert [choose_workers("cuda", cores=cores) for cores in (1, 2, 4, 64)] == [1, 1, 3, MOST_WORKERS]
    assert choose_workers("cuda", cores=16, processes=4) == 3
    assert choose_workers("cuda", cores=8, processes=8) == 1


@given(st.integers(1, 16), st.integers(1, 10**8), st.integers(0, 10**10))
def test_batches_on_their_way_fill_at_most_half_of_the_shared_memory(workers: int, batch: int, free: int) -> None:
    fitting, prefetch = fit_shared_memory(workers, batch, free)
    assert 0 <= fitting <= workers
    assert 1 <= prefetch <= PREFETCH
    assert fitting * (prefetch + 1) * batch <= free / 2
    if free >= 2 * batch * workers * (PREFETCH + 1):
        assert (fitting, prefetch) == (workers, PREFETCH)
    if fitting < workers:  # not fewer than needed
        assert (fitting + 1) * 2 * batch > free / 2


def test_processes_on_one_machine_share_its_memory() -> None:
    fitting, prefetch = fit_shared_memory(4, 1_000_000, 64_000_000, processes=8)
    assert 0 < 8 * fitting * (prefetch + 1) * 1_000_000 <= 64_000_000 / 2


def test_advice_comes_where_waiting_is_worth_it_and_fits_the_machine() -> None:
    assert waiting_advice(0.05, workers=0, cores=8, device="cuda", on_device=False) is None
    text = waiting_advice(0.31, workers=2, cores=8, device="cuda", on_device=False) or ""
    assert text.startswith("31% ")
    assert "augment.backend=device" in text
    assert "workers=4" in text
    text = waiting_advice(0.31, workers=7, cores=8, device="cuda", on_device=True) or ""
    assert "backend" not in text
    assert "workers" not in text
    assert "workers=1" in (waiting_advice(0.2, workers=0, cores=2, device="cpu", on_device=False) or "")
