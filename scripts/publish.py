"""Publish a finished run on the Hugging Face Hub: a distilled dataset, teacher, estimator, prior or IGDS pipeline.

Read the card first, and see what would be uploaded; this contacts nothing:

    python scripts/publish.py runs/infoutil --push_to_hub user/cifar10-infoutil --dry_run

Upload it, to a private repository or to another branch than `main`:

    python scripts/publish.py runs/infoutil --push_to_hub user/cifar10-infoutil
    python scripts/publish.py runs/teacher --push_to_hub user/cifar10-teacher --private --revision epochs-200

Log in first by `hf auth login`, or set HF_TOKEN. The repository is created, and gets everything in one commit, the card
last of all; the same command completes an upload that was interrupted, and makes no commit if nothing has changed. A
repository that holds something else is left alone unless `--overwrite` is given; then files of the same names are
replaced, data and weights of the former content that would be taken for the new ones are deleted, and others stay.
Weights are safetensors only; checkpoints, early teachers (`epoch_N`) and the folder's `run.json` are not uploaded.
In what is, paths from the root or the home folder are shortened to their last part: `path/to/teacher`.
"""

from decoct.arguments import Stage, run_stage
from decoct.config import PublishConfig


def stage(config: PublishConfig) -> Stage:
    from decoct.hub.publish import format_push, plan_publish, publish

    return Stage(publish, plan_publish, printed_plan=format_push)


if __name__ == "__main__":
    run_stage(PublishConfig, stage, __doc__, positional="folder")
