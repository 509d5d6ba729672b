"""Typed, validated configuration: what can be set (`sections`) and how it comes together (`building`)."""

from segkit.config.building import build_config, default_of, describe, known_keys, read_yaml, write_yaml
from segkit.config.sections import (
    AUTO,
    Auto,
    ComputeConfig,
    DataConfig,
    EvaluateConfig,
    Length,
    Section,
    length_px,
)
from segkit.config.slide_sections import PredictConfig, SlideConfig, SlidingWindowConfig
from segkit.config.training_sections import (
    AugmentConfig,
    LossConfig,
    ModelConfig,
    OptimiserConfig,
    PatchConfig,
    PointsConfig,
    TaskName,
    TrainConfig,
    TrainingComputeConfig,
    TransferConfig,
)

__all__ = [
    "AUTO",
    "AugmentConfig",
    "Auto",
    "ComputeConfig",
    "DataConfig",
    "EvaluateConfig",
    "Length",
    "LossConfig",
    "ModelConfig",
    "OptimiserConfig",
    "PatchConfig",
    "PointsConfig",
    "PredictConfig",
    "Section",
    "SlideConfig",
    "SlidingWindowConfig",
    "TaskName",
    "TrainConfig",
    "TrainingComputeConfig",
    "TransferConfig",
    "build_config",
    "default_of",
    "describe",
    "known_keys",
    "length_px",
    "read_yaml",
    "write_yaml",
]
