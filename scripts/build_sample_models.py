"""Embed a trained prior and estimator of the sample in half precision, and check what is embedded.

    python scripts/build_sample_models.py --prior runs/sample-prior --estimator runs/sample-estimator
    python scripts/build_sample_models.py --prior runs/sample-prior --estimator runs/sample-estimator --check

The preset `sample_models` says how both are trained. Their training records are embedded with them.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from decoct.arguments import run

LIMIT = 5_000_000  # bytes of both together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, required=True, help="folder that train_prior.py wrote")
    parser.add_argument("--estimator", type=Path, required=True, help="folder that train_estimator.py wrote")
    parser.add_argument("--check", action="store_true", help="write nothing, compare with what is embedded")
    options = parser.parse_args()
    from decoct.data.source import SAMPLE

    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary)
        convert(options.prior, options.estimator, built)
        files = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
        size = sum((built / file).stat().st_size for file in files)
        if size > LIMIT:
            raise ValueError(f"Both models together must have at most {LIMIT:,} bytes. Got {size:,}.")
        if not options.check:
            for folder in ("prior", "estimator"):
                shutil.rmtree(SAMPLE / folder, ignore_errors=True)
                shutil.copytree(built / folder, SAMPLE / folder)
        different = [str(file) for file in files if (built / file).read_bytes() != (SAMPLE / file).read_bytes()]
    if different:
        raise ValueError(
            f"The embedded files must be those of {options.prior} and {options.estimator}. Got {different}."
        )
    print(f"{len(files)} files, {size:,} bytes, in {SAMPLE}")


def convert(prior: Path, estimator: Path, folder: Path) -> None:
    """Writes both models in half precision with their training records, without code and local paths."""
    import torch
    from diffusers import DDPMPipeline

    from decoct.igds.loading import load_estimator

    DDPMPipeline.from_pretrained(prior).to(dtype=torch.float16).save_pretrained(folder / "prior")
    load_estimator(estimator).half().save_pretrained(folder / "estimator")
    (folder / "estimator" / "estimator.py").unlink()  # decoct has the code
    for settings in (
        folder / "estimator/config.json",
        folder / "prior/model_index.json",
        folder / "prior/unet/config.json",
    ):
        config = json.loads(settings.read_text("utf-8"))
        kept = {key: value for key, value in config.items() if key not in ("auto_map", "_name_or_path")}
        settings.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
    for name, source in (("prior", prior), ("estimator", estimator)):
        record = json.loads((source / "training.json").read_text("utf-8"))
        del record["config"]["output_dir"]
        (folder / name / "training.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        for path in (folder / name).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    run(main)
