"""Whether students can be trained on a set's images."""

from __future__ import annotations

from decoct.data.spec import ImageSpec
from decoct.models.zoo import build_classifier

__all__ = ["check_student"]


def check_student(name: str, spec: ImageSpec) -> None:
    """Raises ValueError for a student that is none of the architectures, or too deep for the images."""
    try:
        build_classifier(name, spec, role="students")
    except ValueError as error:
        if repr(name) in str(error):  # no such network
            raise
        raise ValueError(
            f"students must be networks that take images of {spec.image_size} px. Got {name!r}: {error} "
            "Name others with --students."
        ) from error
