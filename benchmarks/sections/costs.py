"""What decoct costs: the time, memory and bytes of guidance, students, a large dataset and the Hub."""

from __future__ import annotations

from pathlib import Path

from decoct.pages.describe import counted
from sections.cells import NO_RECORDS, Columns, Record, precision, read, row_each


def guidance_section(results: Path) -> str:
    """Time and memory of guided over unguided sampling."""
    columns: Columns = {
        "prior and estimator": lambda each: f"{each['prior']} with {each['estimator']}",
        "guides on": lambda each: each["guide_on"],
        "guides": lambda each: "every step" if each.get("every", 1) == 1 else f"one step in {each['every']}",
        "steps x images": lambda each: (
            f"{each['steps']} x {each['batch']}" + (f", {each['micro_batch']} a pass" if each["micro_batch"] else "")
        ),
        "time, guided over unguided": lambda each: (
            f"{each['ratio']:.2f} ({min(each['ratios']):.2f} to {max(each['ratios']):.2f})"
        ),
        "objective, un- and guided": lambda each: (
            f"{each['unguided_objective']:.2f}, {each['objective']:.2f}" if "objective" in each else ""
        ),
        "peak MB, un- and guided": lambda each: (
            f"{each['unguided_memory']['peak_mb']:.0f}, {each['guided_memory']['peak_mb']:.0f}"
        ),
    }
    return row_each(read(results / "guidance.json"), columns)


def throughput_section(results: Path) -> str:
    """Images a second of student training beside those of a loop written by hand."""
    columns: Columns = {
        "student": lambda each: (
            f"{each['student']}, {each['image_size']} px, batch {each['batch_size']}, {precision(each)}"
        ),
        "images/s": lambda each: f"{each['images_per_second']['decoct']['median']:.0f}",
        "plain loop, images/s": lambda each: f"{each['images_per_second']['plain']['median']:.0f}",
        "ratio, median of pairs (range)": lambda each: "{median:.2f} ({min:.2f} to {max:.2f})".format_map(
            each["ratio"]
        ),
        "pairs": lambda each: str(each["repeats"]),
    }
    return row_each(dict(read(results / "student_throughput.json")).values(), columns)


def muon_section(results: Path) -> str:
    """Seconds of a step of Muon beside those of PyTorch's."""
    columns: Columns = {
        "student": lambda each: f"{each['student']}, {counted(each['kernels'], 'kernel')}",
        "seconds a step": lambda each: f"{each['seconds']['decoct']['median']:.3f}",
        "PyTorch's Muon": lambda each: f"{each['seconds']['PyTorch']['median']:.3f}",
        "ratio (range)": lambda each: "{median:.1f} ({min:.1f} to {max:.1f})".format_map(each["ratio"]),
        "forward and backward": lambda each: f"{each['forward_and_backward_seconds']['median']:.3f}",
        "error, decoct and PyTorch": lambda each: f"{each['error']['decoct']:.0e}, {each['error']['PyTorch']:.0e}",
        "bf16 in the processor": lambda each: "yes" if each["bf16"] else "no",
    }
    return row_each(dict(read(results / "muon.json")).values(), columns)


def many_images_section(results: Path) -> str:
    """What a dataset of ImageNet-1K's shape cost, by part, and the projection."""
    record = dict(read(results / "many_images.json"))
    if not record:
        return NO_RECORDS
    titles = {
        "share": f"InfoUtil, one of {record['share_is_one_of']} ranks: its share of the scores",
        "all_classes": "random images of all classes, from candidates to the finished folder",
    }

    def scores(each: Record, when: str, what: str) -> float:
        return each["stages"]["scores"][when][what]

    columns: Columns = {
        "part": lambda each: each["title"],
        "first 100 candidates scored after, CPU s (wall)": lambda each: (
            f"{scores(each, 'first', 'cpu_seconds'):.0f} ({scores(each, 'first', 'seconds'):.0f})"
        ),
        "all, CPU s (wall)": lambda each: f"{each['cpu_seconds']:.0f} ({each['seconds']:.0f})",
        "memory without mapped files at the first shard, at the last, and at most, MB": lambda each: (
            f"{scores(each, 'first', 'anonymous_mb'):.0f}, {scores(each, 'last', 'anonymous_mb'):.0f}, "
            f"{each['anonymous_mb']:.0f}"
        ),
        "written, MB": lambda each: f"{each['bytes'] / 1e6:,.0f}",
    }
    parts = row_each([{**record[name], "title": title} for name, title in titles.items()], columns)
    projected = record["projection"]
    large = projected["at_224_px"]
    return (
        f"{parts}\n\n{record['images']:,} images of {record['image_size']} px in {record['classes']:,} classes "
        f"({record['dataset_bytes'] / 1e9:.1f} GB of JPEG in parquet), untrained {record['teacher']}, "
        f"IPC {record['ipc']}, "
        f"{record['tiles_per_image']} tiles and {record['mixed_views_per_image']} mixed views an image; one thread of "
        f"{record['cpu']}, which others used too.\n\nMeasured: {projected['forward_passes_per_cpu_second']:,} forward "
        f"passes a CPU second while scoring, so that all {record['candidates']:,} candidates take "
        f"{projected['scoring_cpu_hours_of_all_candidates']:.1f} CPU hours. Projected, not measured: at 224 px the "
        f"same run is {sum(large['forward_passes'].values()):,} forward passes, at an assumed "
        f"{large['assumed_images_per_second']:,.0f} images/s of ResNet-18 in bf16 "
        f"{large['hours_on_one_h100']:.1f} hours on one H100 and {large['hours_on_eight_h100']:.2f} on eight, if "
        "decoding keeps up."
    )


def hub_section(results: Path) -> str:
    """What publishing, verifying and loading a set cost: medians, and the largest peak of the three processes."""
    columns: Columns = {
        "set": lambda each: f"{each['name']}: {each['images']:,} images of {each['image_size']} px",
        "MB": lambda each: f"{each['bytes'] / 1e6:,.1f}",
        "tile labels / images": lambda each: f"{100 * each['tile_labels_share_of_images']:.1f} %",
        "publish, s": lambda each: f"{each['publish']['seconds'][1]:.1f}",
        "verify, s": lambda each: f"{each['verify']['seconds'][1]:.1f}",
        "load, s": lambda each: f"{each['load']['seconds'][1]:.1f}",
        "rows/s": lambda each: f"{each['load']['rows_per_second'][1]:,.0f}",
        "peak MB": lambda each: f"{max(each[step]['peak_mb'][2] for step in ('publish', 'verify', 'load')):.0f}",
        "runs": lambda each: str(each["repeats"]),
    }
    sets = dict(read(results / "hub.json")).items()
    return row_each([{**each, "name": name, **each["steps_min_median_max"]} for name, each in sets], columns)
