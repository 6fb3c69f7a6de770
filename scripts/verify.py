"""Check that a distilled dataset is what its manifest says: hashes, columns, labels, logits, images, configurations.

A run folder:

    decoct verify runs/infoutil

A published dataset, which is downloaded at one commit into the Hub's cache, and one of its revisions:

    decoct verify user/cifar10-infoutil
    python scripts/verify.py user/cifar10-infoutil --revision v1

With the teacher that labelled, a sample of the stored logits is computed again and compared:

    decoct verify runs/infoutil --teacher runs/teacher

Nothing in the folder or repository is executed. All problems are listed; the exit code is 1 if there is any.
"""

from decoct.arguments import Stage, run_stage
from decoct.config import VerifyConfig


def stage(config: VerifyConfig) -> Stage:
    from decoct.hub.verify import verify

    return Stage(verify, ok=lambda report: report.ok)


if __name__ == "__main__":
    run_stage(VerifyConfig, stage, __doc__, positional="source")
