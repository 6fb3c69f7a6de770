"""Check that a distilled dataset is what its manifest says: hashes, columns, labels, logits, images, configurations.

A run folder:

    decoct verify runs/infoutil

A published dataset, which is downloaded at one commit into the Hub's cache, and one of its revisions:

    decoct verify user/cifar10-infoutil
    python scripts/verify.py user/cifar10-infoutil --revision v1

Nothing in the folder or repository is executed. All problems are listed; the exit code is 1 if there is any.
"""

import sys

from decoct.arguments import parse_config, run
from decoct.config import VerifyConfig


def main() -> None:
    config = parse_config(VerifyConfig, source_word(sys.argv[1:]), description=__doc__)
    from decoct.hub.verify import verify

    report = verify(config)
    print(report)
    if not report.ok:
        raise SystemExit(1)


def source_word(arguments: list[str]) -> list[str]:
    """Arguments in which a first word that is no option is the source."""
    return ["--source", *arguments] if arguments and not arguments[0].startswith("-") else arguments


if __name__ == "__main__":
    run(main)
