"""The package metadata of decoct, all of it."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/decoct/__init__.py").read_text("utf-8"), re.M).group(1)

# Top-level folders that are installed as sub-packages, so that they are found in every kind of installation.
FOLDERS = ["scripts", "presets", "hub_cards", "pipelines"]

setup(
    name="decoct",
    version=VERSION,
    description="Distil an image-classification dataset into a few images per class, and measure what they are worth.",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="dataset distillation, image classification, Shapley value, soft labels, PyTorch, Hugging Face",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    package_dir={"": "src", **{f"decoct.{folder}": folder for folder in FOLDERS}},
    packages=[
        *find_namespace_packages("src", include=["decoct", "decoct.*"], exclude=["*__pycache__*"]),
        *[f"decoct.{folder}" for folder in FOLDERS],
        "decoct.pipelines.igds",
    ],
    package_data={
        "": ["*.md", "*.yaml", "*.parquet", "LICENSE*", "py.typed"],
        "decoct.data": ["sample/prior/**", "sample/estimator/**"],
        "decoct.pages": ["*.css", "*.jinja", "*.js"],
        "decoct.presets": ["protocols/*.yaml", "reported/*.yaml"],
        "decoct.scripts": ["accelerate_configs/*.yaml"],
    },
    install_requires=[
        "accelerate>=1.10",
        "captum>=0.8",
        "datasets>=5.0",
        "diffusers>=0.36",
        "evaluate>=0.4.6",
        "filelock>=3.16",
        "huggingface_hub>=1.4",
        "jinja2>=3.1",
        "kornia>=0.8",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "pandas>=2.2",
        "pillow>=11.0",
        "pyarrow>=21.0",
        "pyyaml>=6.0",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "threadpoolctl>=3.5",
        "torch>=2.6",
        "tqdm>=4.66",
        "transformers>=5.0",
    ],
    extras_require={
        "dev": [
            "mypy>=1.18",
            "pytest>=8.0",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.14",
            "tensorboard>=2.18",
            "types-PyYAML",
        ],
        "docs": [
            "furo>=2024.8",
            "myst-parser>=4.0",
            "sphinx>=8.1",
        ],
        "space": ["gradio>=6.0"],
    },
    entry_points={"console_scripts": ["decoct = decoct.cli:main"]},
)
