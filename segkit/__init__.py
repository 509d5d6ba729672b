"""segkit: from a folder of labelled images to exact results on gigapixel slides.

The verbs of the command line are functions, too; they print nothing and take progress callbacks:

    from pathlib import Path
    import segkit
    result = segkit.train(segkit.TrainConfig(data={"dir": "sample_data"}))
    segkit.predict([Path("slide.tif")], model=result.run)
"""

import importlib
from typing import Any

# Loaded when first used: `import segkit` takes milliseconds, torch takes seconds.
_PUBLIC = {
    "train": "segkit.workflows.train",
    "predict": "segkit.workflows.predict",
    "sliding_window": "segkit.workflows.sliding_window",
    "evaluate": "segkit.workflows.evaluate",
    "compare": "segkit.workflows.compare",
    "check": "segkit.workflows.inspect",
    "export": "segkit.workflows.export",
    "load_model": "segkit.models.model_file",
    "open_slide": "segkit.slides",
    "TrainConfig": "segkit.config",
    "PredictConfig": "segkit.config",
    "SlidingWindowConfig": "segkit.config",
    "EvaluateConfig": "segkit.config",
    "DataConfig": "segkit.config",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
