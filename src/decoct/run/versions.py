"""What a result was made with."""

from __future__ import annotations

import platform
from importlib import metadata

__all__ = ["installed_versions"]

PACKAGES = ("decoct", "torch", "transformers", "diffusers", "datasets", "accelerate", "captum", "kornia", "evaluate")


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; absent packages are left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
