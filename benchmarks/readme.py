"""Writes every generated section of README.md, docs/ and benchmarks/README.md from the records in benchmarks/results/.

    python benchmarks/readme.py
    python benchmarks/readme.py --check     # exit code 1 if a section is not what the records say; writes nothing

Only what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` is replaced, NAME being a key of `SECTIONS`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sections import choices, costs, igds, infoutil, self_contained

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {
    "README.md": {
        "headline": self_contained.headline_section,
    },
    "docs/results.md": {
        "self_contained": self_contained.headline_section,
        "architectures": self_contained.architectures_section,
        "bytes": choices.bytes_section,
        "training": choices.training_section,
        "label_teachers": choices.label_teachers_section,
        "lengths": choices.lengths_section,
        "informative": choices.informative_section,
        "imagenette": self_contained.imagenette_section,
        "results": infoutil.results_section,
        "claims": infoutil.claims_section,
        "many_images": costs.many_images_section,
        "igds": igds.igds_section,
        "sample_igds": partial(igds.evidence_section, name="beta_held_out_sample"),
        "fashion_mnist": partial(igds.evidence_section, name="fashion_mnist"),
        "cifar10_igds": partial(igds.evidence_section, name="cifar10_igds"),
    },
    "docs/hub.md": {
        "hub": costs.hub_section,
    },
    "benchmarks/README.md": {
        "selection": choices.selection_section,
        "sweep": infoutil.sweep_section,
        "ablation": infoutil.ablation_section,
        "downstream": infoutil.downstream_section,
        "throughput": costs.throughput_section,
        "muon": costs.muon_section,
        "beta": igds.beta_section,
        "estimator": igds.estimator_section,
        "guidance": costs.guidance_section,
    },
    "pipelines/igds/README.md": {"schedulers": igds.schedulers_section},
}


def replace_section(text: str, name: str, content: str, where: Path) -> str:
    """The text with new content between the markers of a section.

    Raises:
        ValueError: If the markers are not there, once each and in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{where} must hold the markers {begin} and {end}, once each. Add them where the table goes.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Writes all sections, or compares them with the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md, docs/ and benchmarks/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a section is out of date")
    options = parser.parse_args(argv)
    outdated = []
    for file, sections in SECTIONS.items():
        path = options.root / file
        text = path.read_text(encoding="utf-8")
        for name, section in sections.items():
            fresh = replace_section(text, name, section(options.root / "benchmarks" / "results"), path)
            outdated += [f"{file}, section {name}"] if fresh != text else []
            text = fresh
        if not options.check:
            path.write_text(text, encoding="utf-8")
    for place in outdated:
        print(f"{place}: {'out of date; run python benchmarks/readme.py' if options.check else 'written'}")
    return int(options.check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main())
