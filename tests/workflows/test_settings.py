"""Settings of the engines."""

import pytest
import torch

from segkit.config import TrainConfig, build_config
from segkit.config.training_sections import TrainingComputeConfig
from segkit.workflows import planning, settings
from segkit.workflows.settings import device_of_process


def test_each_of_several_processes_has_a_gpu_of_its_own_whichever_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run's configuration names the first one's for all of them."""

    def compute(device: str) -> TrainingComputeConfig:
        return build_config(TrainConfig, assignments=["data.dir=x", f"compute.device={device}"]).compute

    for module in (planning, settings):
        monkeypatch.setattr(module, "resolve_device", lambda name: torch.device("cuda" if name == "auto" else name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device_of_process(compute("cuda:3")) == torch.device("cuda:3")
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert [device_of_process(compute(name)) for name in ("cuda:0", "auto", "cpu")] == [
        torch.device("cuda:1"),
        torch.device("cuda:1"),
        torch.device("cpu"),
    ]
