"""Read a distilled dataset that others published into a run folder, so that it stands in the same tables as decoct's.

Trajectory matching (MTT, DATM): tensors that were normalised for their networks, with hard or soft labels:

    decoct import datm/images_best.pt --dataset uoft-cs/cifar10 --method DATM \\
        --mean 0.4914 0.4822 0.4465 --std 0.2023 0.1994 0.2010 --in_class_order --output_dir runs/datm

Folders of images (RDED, SRe2L), whose folders are classes by name or by number; parquet, with a column of soft labels:

    decoct import syn_data/ --dataset imagenette --method "RDED (published)" --tiles_per_image 4 --output_dir runs/rded
    decoct import published/ --dataset uoft-cs/cifar10 --method theirs --soft_labels probabilities

No code in a file is run: what `torch.load(weights_only=True)` refuses is refused. Then:

    decoct evaluate --distilled runs/datm --dataset uoft-cs/cifar10 --labels tiles
"""

from decoct.arguments import Stage, run_stage
from decoct.config import ImportConfig


def stage(config: ImportConfig) -> Stage:
    from decoct.pages.printed import import_report
    from decoct.synthesis.importing import import_set, plan_import

    return Stage(import_set, plan_import, lambda manifest: import_report(manifest, config.output_dir))


if __name__ == "__main__":
    run_stage(ImportConfig, stage, __doc__, positional="source")
