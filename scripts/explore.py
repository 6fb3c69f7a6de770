"""Look at distilled sets in a browser: images with their tiles' origins, heat maps and labels; samples over beta; two
sets compared. It needs Gradio: `pip install 'decoct[space]'`.

    decoct explore runs/cifar10
    decoct explore runs/cifar10 user/cifar10-infoutil --port 7860

Without a set, the embedded prior alone can be sampled.
"""

from decoct.arguments import Stage, run_stage
from decoct.config import ExploreConfig


def stage(config: ExploreConfig) -> Stage:
    from decoct.explorer import explore

    return Stage(explore, printed=lambda nothing: "")


if __name__ == "__main__":
    run_stage(ExploreConfig, stage, __doc__, positional="sets")
