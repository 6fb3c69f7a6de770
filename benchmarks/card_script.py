"""Claim: the training script of a set's card, plain PyTorch without decoct, reaches what decoct's student reaches.

    decoct distill --dataset uoft-cs/cifar10 --teacher TEACHER --ipc 1 --label_teacher TEACHER/epoch_5 --output_dir RUN
    decoct evaluate --distilled RUN --dataset uoft-cs/cifar10 --students convnet3
    python benchmarks/card_script.py --distilled RUN --source uoft-cs/cifar10

The script is taken from the card of an evaluated set and run in a process of its own, in which decoct cannot be
imported. Results go to benchmarks/results/card_script.json, beside those of other sets.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import RESULTS, command_of, cpu_name, public_name

# What the card's own two examples are run in: the network's accuracy is the last line.
AROUND = """\
import sys
sys.modules["decoct"] = None
import torch
torch.set_num_threads({threads})
torch.manual_seed({seed})
{code}
print(right / len(real))
"""


def scripts_of(card: str, source: str) -> str:
    """A card's examples of training and of measuring, with a dataset to measure on."""
    _, training, measuring = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    return training + re.sub(r'load_dataset\("[^"]*"\)', f"load_dataset({source!r})", measuring)


def main() -> None:
    from decoct.files import read_json
    from decoct.models.zoo import depth_of
    from decoct.pages.dataset_card import dataset_card
    from decoct.run.folder import write_json
    from decoct.run.versions import installed_versions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--distilled", type=Path, required=True, help="folder of an evaluated set")
    parser.add_argument("--source", required=True, help="Hub id or folder of the dataset to measure on")
    parser.add_argument("--seed", type=int, default=0, help="of the script's random numbers")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--output", type=Path, default=RESULTS / "card_script.json", help="result file")
    options = parser.parse_args()
    manifest, results = (read_json(options.distilled / f"{name}.json") for name in ("manifest", "results"))
    ipc = max(manifest["ipcs"])
    own = {"labels": "mixed", "protocol": "strong_kd", "method": manifest["config"]["method"]}
    own |= {"ipc": ipc, "student": f"convnet{depth_of(manifest['image_size'])}"}
    records = [each for each in results if own.items() <= each.items()]
    if not records:
        raise ValueError(f"{options.distilled} must have a record of {own}. Got {len(results)} others.")
    record = max(records, key=lambda each: len(each["seeds"]))
    code = scripts_of(dataset_card(manifest, str(options.distilled), results), options.source)
    with tempfile.TemporaryDirectory() as folder:
        file, began = Path(folder) / "script.py", time.perf_counter()
        file.write_text(AROUND.format(threads=options.threads, seed=options.seed, code=code), encoding="utf-8")
        printed = subprocess.run([sys.executable, str(file)], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = {
        "dataset": public_name(record["dataset"]),
        "eval_split": record["eval_split"],
        "ipc": ipc,
        "method": record["method"],
        "label_teacher": [Path(name).name for name in manifest["config"].get("label_teacher", [])],
        "student": record["student"],
        "overrides": record["overrides"],
        "decoct": record["accuracy_mean"],
        "decoct_seeds": record["seeds"],
        "script": float(printed.split()[-1]),
        "script_seed": options.seed,
        "script_seconds": round(time.perf_counter() - began),
        "threads": options.threads,
        "processor": cpu_name(),
        "versions": installed_versions(),
        "command": command_of(__file__, sys.argv[1:]),
    }
    known = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else []
    others = [each for each in known if each["command"] != found["command"]]
    write_json(options.output, [*others, found])
    print(f"{found['dataset']}, IPC {ipc}: decoct {100 * found['decoct']:.1f} %, script {100 * found['script']:.1f} %")


if __name__ == "__main__":
    main()
