"""decoct: an image-classification dataset, boiled down to a few images per class."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoct.data.loading import load_images, measure_spec
    from decoct.data.spec import ImageSpec
    from decoct.igds.loading import load_estimator
    from decoct.igds.prior import load_pipeline
    from decoct.infoutil.processor import InfoUtilProcessor
    from decoct.models.classifier import Classifier
    from decoct.models.zoo import build_classifier, load_classifier

__version__ = "0.1.0"

__all__ = [
    "IGDS",
    "Classifier",
    "ImageSpec",
    "InfoUtil",
    "InfoUtilProcessor",
    "build_classifier",
    "load_classifier",
    "load_estimator",
    "load_images",
    "load_pipeline",
    "measure_spec",
]

# Resolved on first use (PEP 562): `import decoct` must not wait for torch.
_MODULES = {
    "IGDS": "decoct.synthesis.sampled",
    "load_estimator": "decoct.igds.loading",
    "load_pipeline": "decoct.igds.prior",
    "Classifier": "decoct.models.classifier",
    "ImageSpec": "decoct.data.spec",
    "InfoUtil": "decoct.synthesis.real",
    "InfoUtilProcessor": "decoct.infoutil.processor",
    "build_classifier": "decoct.models.zoo",
    "load_classifier": "decoct.models.zoo",
    "load_images": "decoct.data.loading",
    "measure_spec": "decoct.data.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'decoct' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
