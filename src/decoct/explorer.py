"""`decoct explore`: distilled sets, samples over beta, and two sets compared, on a page of Gradio."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from decoct.config import ExploreConfig, SampleConfig, values_for
from decoct.igds.loading import label_names
from decoct.pages.explored import (
    PER_PAGE,
    ExploredSet,
    class_page,
    comparison_page,
    error_page,
    facts_page,
    open_set,
    samples_page,
)
from decoct.synthesis.chunks import Chunk, sample_chunks
from decoct.synthesis.guided_prior import PriorSettings, SamplingSettings, open_pipeline

__all__ = ["build_explorer", "explore", "samples_over_beta"]

BETAS = [0.0, 1.0, 10.0]  # the last is far more than a set is made with, to be seen at a glance
STEPS, MOST_STEPS, MOST_SAMPLES = 25, 100, 8
FONTS = ["system-ui", "sans-serif"]  # of this machine: none is fetched


def explore(config: ExploreConfig) -> None:
    """Serves the page until it is stopped.

    Raises:
        ValueError: If a set cannot be read, or Gradio is not installed.
    """
    page, look = build_explorer(config.sets)
    page.launch(server_name=config.host, server_port=config.port, show_error=True, **look)


def build_explorer(names: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """The page as a `gradio.Blocks`, and how its `launch` is to draw it.

    Args:
        names: Run folders or Hub ids; no others can be opened from the page.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is sent
    try:
        import gradio
    except ImportError as error:
        raise ValueError(
            "gradio must be installed to explore. Got no such package: `pip install 'decoct[space]'`."
        ) from error

    sets = {name: open_set(name) for name in names}
    with gradio.Blocks(title="decoct", analytics_enabled=False) as page:
        gradio.Markdown("# decoct\nA few images a class that stand for a dataset, and where each comes from.")
        if sets:
            with gradio.Tab("Browse a set"):
                _browse_tab(gradio, sets)
        with gradio.Tab("Sample over beta"):
            _sample_tab(gradio)
        if sets:
            with gradio.Tab("Compare two sets"):
                _compare_tab(gradio, sets)
        else:
            gradio.Markdown("No set was named: `decoct explore runs/cifar10` shows one, of two or more also compared.")
    style = (files("decoct.pages") / "explored.css").read_text(encoding="utf-8")
    return page, {"css": style, "theme": gradio.themes.Base(font=FONTS, font_mono=["monospace"])}


def _browse_tab(gradio: Any, sets: dict[str, ExploredSet]) -> None:
    """A set, a size and a class, and the images there."""
    first = next(iter(sets))
    with gradio.Row():
        chosen = gradio.Dropdown(list(sets), value=first, label="set", interactive=True)
        ipc = gradio.Dropdown(sets[first].run.ipcs, value=_usual(sets[first]), label="images per class")
        label = gradio.Dropdown(_classes(sets[first]), value=0, label="class")
        page = gradio.Number(1, label="page", precision=0, minimum=1, maximum=_pages(_usual(sets[first])))
    facts = gradio.HTML(facts_page(sets[first]))
    images = gradio.HTML(class_page(sets[first], _usual(sets[first]), 0))

    def choose(name: str) -> list[Any]:
        found, size = sets[name], _usual(sets[name])
        return [
            gradio.Dropdown(found.run.ipcs, value=size),
            gradio.Dropdown(_classes(found), value=0),
            gradio.Number(1, maximum=_pages(size)),
            facts_page(found),
            class_page(found, size, 0),
        ]

    def resize(name: str, size: int, number: int) -> list[Any]:
        return [gradio.Number(1, maximum=_pages(size)), class_page(sets[name], size, number)]

    def show(name: str, size: int, number: int, place: int | None) -> str:
        return class_page(sets[name], size, number, min(max(1, place or 1), _pages(size)))

    # `input` alone: what `choose` sets must not be shown a second time.
    chosen.input(choose, [chosen], [ipc, label, page, facts, images])
    ipc.input(resize, [chosen, ipc, label], [page, images])
    gradio.on([label.input, page.input], show, [chosen, ipc, label, page], images)


def _sample_tab(gradio: Any) -> None:
    """The embedded prior under guidance, at several weights of the contextual information."""
    gradio.Markdown(
        "The embedded prior of Fashion-MNIST, guided by the embedded estimator. Each row has the same seeds; a larger "
        "beta asks for more contextual information, which takes the samples away from their class's mean."
    )
    with gradio.Row():
        label = gradio.Dropdown(
            [(name, number) for number, name in enumerate(label_names(_pipeline().estimator))], value=7, label="class"
        )
        betas = gradio.Textbox(" ".join(f"{beta:g}" for beta in BETAS), label="beta, one or more numbers")
        count = gradio.Slider(1, MOST_SAMPLES, value=4, step=1, label="samples")
        steps = gradio.Slider(5, MOST_STEPS, value=STEPS, step=1, label="reverse steps")
        seed = gradio.Number(0, label="seed", precision=0)
    button = gradio.Button("Sample", variant="primary")
    gallery = gradio.HTML()

    def draw(number: int, text: str, samples: int, reverse: int, start: int | None) -> str:
        try:
            weights = [float(word) for word in text.replace(",", " ").split()]
        except ValueError:
            return error_page(ValueError(f"beta must be one or more numbers, such as 0 1 10. Got {text!r}."))
        if not 1 <= len(weights) <= len(BETAS) + 3 or not all(0 <= weight <= 1000 for weight in weights):
            return error_page(ValueError(f"beta must be one to six numbers from 0 to 1000. Got {text!r}."))
        return samples_over_beta(number, weights, int(samples), int(reverse), int(start or 0))

    button.click(draw, [label, betas, count, steps, seed], gallery)


def samples_over_beta(label: int, betas: Sequence[float], count: int, steps: int, seed: int = 0) -> str:
    """Samples of a class of the embedded prior, a row for each beta, as HTML."""
    config = SampleConfig(prior="sample", estimator="sample", scheduler="ddim", sampling_steps=steps, seed=seed)
    pipeline = _pipeline()
    side, settings = pipeline.estimator.config.image_size, values_for(SamplingSettings, config)
    rows = {beta: sample_chunks(pipeline, [Chunk(label, 0, count, beta)], settings, side) for beta in betas}
    return samples_page({beta: each[:] for beta, each in rows.items()}, label_names(pipeline.estimator)[label])


@lru_cache(maxsize=1)
def _pipeline() -> Any:
    config = SampleConfig(prior="sample", estimator="sample", scheduler="ddim")
    return open_pipeline(values_for(PriorSettings, config), values_for(SamplingSettings, config))


def _compare_tab(gradio: Any, sets: dict[str, ExploredSet]) -> None:
    """Two sets and a class."""
    names = list(sets)
    one, other = sets[names[0]], sets[names[-1]]
    shared = [ipc for ipc in one.run.ipcs if ipc in other.run.ipcs]
    with gradio.Row():
        left = gradio.Dropdown(names, value=names[0], label="one")
        right = gradio.Dropdown(names, value=names[-1], label="other")
        ipc = gradio.Dropdown(
            sorted({ipc for each in sets.values() for ipc in each.run.ipcs}),
            value=(shared or one.run.ipcs)[-1],
            label="images per class",
        )
        label = gradio.Dropdown(_classes(one), value=0, label="class")

    def compare(first: str, second: str, size: int, number: int) -> str:
        try:
            return comparison_page(sets[first], sets[second], size, number)
        except ValueError as error:
            return error_page(error)

    def choose(first: str, second: str, size: int) -> list[Any]:
        return [gradio.Dropdown(_classes(sets[first]), value=0), compare(first, second, size, 0)]

    pages = gradio.HTML(compare(names[0], names[-1], (shared or one.run.ipcs)[-1], 0))
    gradio.on([left.input, right.input], choose, [left, right, ipc], [label, pages])
    gradio.on([ipc.input, label.input], compare, [left, right, ipc, label], pages)


def _classes(shown: ExploredSet) -> list[tuple[str, int]]:
    return [(name, label) for label, name in enumerate(shown.run.classes)]


def _usual(shown: ExploredSet) -> int:
    """The size that is shown first: the largest that fits a page, else the smallest."""
    return max((ipc for ipc in shown.run.ipcs if ipc <= PER_PAGE), default=shown.run.ipcs[0])


def _pages(ipc: int) -> int:
    return -(-ipc // PER_PAGE)
