"""Typed, validated configuration: what can be set (`sections`) and how it comes together (`building`)."""

from segkit.config.building import build_config, default_of, describe, known_keys, read_yaml, write_yaml
from segkit.config.sections import (
    AUTO,
    AugmentConfig,
    Auto,
    ComputeConfig,
    DataConfig,
    EvaluateConfig,
    Length,
    ModelConfig,
    OptimiserConfig,
    PatchConfig,
    PointsConfig,
    Section,
    TrainConfig,
    length_px,
)
from segkit.config.slide_sections import PredictConfig, SlideConfig, SlidingWindowConfig

__all__ = [
    "AUTO",
    "AugmentConfig",
    "Auto",
    "ComputeConfig",
    "DataConfig",
    "EvaluateConfig",
    "Length",
    "ModelConfig",
    "OptimiserConfig",
    "PatchConfig",
    "PointsConfig",
    "PredictConfig",
    "Section",
    "SlideConfig",
    "SlidingWindowConfig",
    "TrainConfig",
    "build_config",
    "default_of",
    "describe",
    "known_keys",
    "length_px",
    "read_yaml",
    "write_yaml",
]
