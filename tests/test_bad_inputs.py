"""Bad inputs of all commands and of the Python API: one line says what is wrong, the exit status, and no change."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from worlds import accuracy_record, contents, write_images, write_run, write_teacher

from decoct import config as configs
from decoct.arguments import Stage, run_stage

COMMANDS = {
    "train_teacher": ("TeacherConfig", None),
    "train_estimator": ("EstimatorConfig", None),
    "train_prior": ("PriorConfig", None),
    "distill": ("DistillConfig", None),
    "sample": ("SampleConfig", None),
    "evaluate": ("EvaluateConfig", None),
    "publish": ("PublishConfig", "folder"),
    "verify": ("VerifyConfig", "source"),
    "compare": ("CompareConfig", "runs"),
    "ablate": ("AblateConfig", None),
    "information": ("InformationConfig", None),
    "beta_study": ("BetaStudyConfig", None),
}


class Case(NamedTuple):
    """A command's words and what it must answer.

    Args:
        make: What is done to the folder before.
        status: 2 for words that are wrong by themselves, 1 for what they name.
    """

    command: str
    words: str
    message: str
    make: Callable[[Path], object] = lambda folder: None
    status: int = 1


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Puts a file into the folder."""

    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    return make


def change(name: str, **values: Any) -> Callable[[Path], object]:
    """Sets fields of a JSON object in the folder; None removes one."""

    def make(folder: Path) -> None:
        path = folder / name
        content = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return make


def cut(name: str, share: float = 0.5) -> Callable[[Path], object]:
    """Cuts a file off."""

    def make(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return make


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def table(**columns: Any) -> Callable[[Path], object]:
    """A parquet file `own/train.parquet` with these columns."""

    def make(folder: Path) -> None:
        (folder / "own").mkdir()
        pq.write_table(pa.table(columns), folder / "own" / "train.parquet")

    return make


def pictures(*names: str) -> Callable[[Path], object]:
    """Images of 8 pixels at these paths of `own/`."""

    def make(folder: Path) -> None:
        for name in names:
            (folder / "own" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(folder / "own" / name)

    return make


def both(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [step(folder) for step in steps]


DEEP = "[" * 100_000 + "]" * 100_000
LAUGHS = "x0: &x0 [lol]\n" + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 30))
RESULTS = write("run/results.json", json.dumps([accuracy_record(0.5)]))
TRAIN = "--dataset images --epochs 1 --output_dir out"
OWN = "--dataset own --eval_split train --epochs 1 --output_dir out"
DISTIL = "--dataset images --teacher teacher --allow_weak_teacher --ipc 1 --output_dir out"
IGDS = f"--method igds --prior prior --estimator estimator {DISTIL}"
EVALUATE = "--distilled run --ipc 1 --dataset images --no_baseline --students convnet3_w8 --labels hard"

SAMPLE = "--prior prior --estimator estimator --output_dir out"
OTHER_RUN = write("out/run.json", '{"unknown": 1}')

CASES: dict[str, Case] = {
    "train_teacher --epochs many": Case(
        "train_teacher", "--epochs many", "argument --epochs: invalid int value: 'many'", status=2
    ),
    "train_teacher --epochs 0": Case("train_teacher", "--epochs 0", "epochs must be at least 1. Got 0.", status=2),
    "train_teacher --epochs 1.5": Case(
        "train_teacher", "--epochs 1.5", "argument --epochs: invalid int value: '1.5'", status=2
    ),
    "train_teacher --learning_rate -1": Case(
        "train_teacher", "--learning_rate -1", "learning_rate must be positive. Got -1.0.", status=2
    ),
    "train_teacher --learning_rate nan": Case(
        "train_teacher", "--learning_rate nan", "learning_rate must be a finite number. Got nan.", status=2
    ),
    "train_teacher --image_size -3": Case(
        "train_teacher", "--image_size -3", "image_size must be at least 8. Got -3.", status=2
    ),
    "train_teacher --image_size 4": Case(
        "train_teacher", "--image_size 4", "image_size must be at least 8. Got 4.", status=2
    ),
    "train_teacher --mixed_precision fp8": Case(
        "train_teacher",
        "--mixed_precision fp8",
        "argument --mixed_precision/--mixed-precision: invalid choice: 'fp8'",
        status=2,
    ),
    "train_teacher --num_workers -1": Case(
        "train_teacher", "--num_workers -1", "num_workers must be at least 0. Got -1.", status=2
    ),
    "train_teacher --save_epochs 0": Case(
        "train_teacher", "--save_epochs 0", "save_epochs must be epochs from 1 on. Got [0].", status=2
    ),
    "train_teacher --epoch 3": Case(
        "train_teacher", "--epoch 3", "unknown option '--epoch'. The nearest option is '--epochs'.", status=2
    ),
    "train_estimator --queue_size -1": Case(
        "train_estimator", "--queue_size -1", "queue_size must be 0 or a multiple of batch_size (0). Got -1.", status=2
    ),
    "train_estimator --temperature 0": Case(
        "train_estimator", "--temperature 0", "temperature must be positive. Got 0.0.", status=2
    ),
    "train_estimator --q_mode other": Case(
        "train_estimator",
        "--q_mode other",
        "argument --q_mode/--q-mode: invalid choice: 'other' (choose from",
        status=2,
    ),
    "train_estimator --kl_weight -1": Case(
        "train_estimator", "--kl_weight -1", "kl_weight must be at least 0. Got -1.0.", status=2
    ),
    "train_estimator --epochs -2": Case(
        "train_estimator", "--epochs -2", "epochs must be at least 1. Got -2.", status=2
    ),
    "train_prior --channels 0": Case(
        "train_prior", "--channels 0", "channels must be two or more multiples of 8. Got [0].", status=2
    ),
    "train_prior --label_dropout 2": Case(
        "train_prior", "--label_dropout 2", "label_dropout must be in [0, 1). Got 2.0.", status=2
    ),
    "train_prior --epochs 0": Case("train_prior", "--epochs 0", "epochs must be at least 1. Got 0.", status=2),
    "train_prior --learning_rate 0": Case(
        "train_prior", "--learning_rate 0", "learning_rate must be positive. Got 0.0.", status=2
    ),
    "distill --beta": Case(
        "distill", "--method random --beta 3", "beta must be left out with method 'random', where it changes", status=2
    ),
    "distill --utility": Case(
        "distill", "--method igds --utility loss", "utility must be left out with method 'igds', where it", status=2
    ),
    "distill --tune": Case(
        "distill", "--tune --utility_order highest", "utility_order must be left out with --tune, which", status=2
    ),
    "distill --tune --selection": Case(
        "distill",
        "--tune --selection top",
        "selection must be left out with --tune, which chooses them, where it changes nothing. Got 'top'.",
        status=2,
    ),
    "distill --image_size": Case(
        "distill", f"{DISTIL} --image_size 64", "image_size must be that of the teacher, 16, or be left out. Got 64."
    ),
    "distill --ipc 0": Case("distill", "--ipc 0", "ipc must be one or more numbers from 1 on. Got [0].", status=2),
    "distill --ipc a": Case("distill", "--ipc a", "argument --ipc: invalid int value: 'a'", status=2),
    "distill --ipc 1.5": Case("distill", "--ipc 1.5", "argument --ipc: invalid int value: '1.5'", status=2),
    "distill --ipc": Case("distill", "--ipc", "argument --ipc: expected at least one argument", status=2),
    "distill --crop_fraction 2": Case(
        "distill", "--crop_fraction 2", "crop_fraction must be in (0, 1]. Got 2.0.", status=2
    ),
    "distill --crop_fraction 0": Case(
        "distill", "--crop_fraction 0", "crop_fraction must be in (0, 1]. Got 0.0.", status=2
    ),
    "distill --method sre2l": Case(
        "distill", "--method sre2l", "argument --method: invalid choice: 'sre2l' (choose from 'infoutil',", status=2
    ),
    "distill --views -1": Case("distill", "--views -1", "views must be at least 0. Got -1.", status=2),
    "distill --slots -1": Case("distill", "--slots -1", "slots must be at least 0. Got -1.", status=2),
    "distill --tiles_per_image 3": Case(
        "distill", "--tiles_per_image 3", "argument --tiles_per_image/--tiles-per-image: invalid choice: '3'", status=2
    ),
    "distill --crops_per_image 0": Case(
        "distill", "--crops_per_image 0", "crops_per_image must be at least 1. Got 0.", status=2
    ),
    "distill --noise_scale -1": Case(
        "distill", "--noise_scale -1", "noise_scale must be at least 0. Got -1.0.", status=2
    ),
    "distill --label_bits 5": Case(
        "distill", "--label_bits 5", "argument --label_bits/--label-bits: invalid choice: '5' (choose from 4,", status=2
    ),
    "distill --method igds --scheduler euler": Case(
        "distill",
        "--method igds --scheduler euler",
        "argument --scheduler: invalid choice: 'euler' (choose from 'ddpm',",
        status=2,
    ),
    "distill --method igds --sampling_steps 0": Case(
        "distill", "--method igds --sampling_steps 0", "sampling_steps must be at least 1. Got 0.", status=2
    ),
    "distill --method igds --guidance_scale -1": Case(
        "distill", "--method igds --guidance_scale -1", "guidance_scale must be at least 0. Got -1.0.", status=2
    ),
    "distill --push_to_hub a/b/c": Case(
        "distill", "--push_to_hub a/b/c", "push_to_hub must be a Hub repository 'user/name'. Got 'a/b/c'.", status=2
    ),
    "distill --crop_fractoin 1": Case(
        "distill", "--crop_fractoin 1", "unknown option '--crop_fractoin'. The nearest option is", status=2
    ),
    "distill stray": Case("distill", "stray", "unknown argument 'stray'. Options are written", status=2),
    "sample --betas x": Case("sample", "--betas x", "argument --betas: invalid float value: 'x'", status=2),
    "sample --per_class 0": Case(
        "sample", "--per_class 0", "unknown option '--per_class'. The nearest option is '--prior_classes'.", status=2
    ),
    "evaluate --ipc 0": Case("evaluate", "--ipc 0", "ipc must be numbers from 1 on. Got [0].", status=2),
    "evaluate --overwrite": Case(
        "evaluate", "--overwrite", "overwrite must be left out here: results are added to, where it", status=2
    ),
    "evaluate --real_accuracy": Case(
        "evaluate",
        "--students convnet3 --real_accuracy convnet4=0.8",
        "real_accuracy must be NAME=FRACTION with NAME one of the students ['convnet3']. Got 'convnet4'.",
        status=2,
    ),
    "evaluate --seeds 0": Case("evaluate", "--seeds 0", "seeds must be at least 1. Got 0.", status=2),
    "evaluate --labels soft": Case(
        "evaluate", "--labels soft", "labels must be one of ['hard', 'tiles', 'views', 'mixed', 'online'].", status=2
    ),
    "evaluate --epochs 0": Case("evaluate", "--epochs 0", "epochs must be at least 1. Got 0.", status=2),
    "evaluate --task other": Case(
        "evaluate", "--task other", "argument --task: invalid choice: 'other' (choose from 'accuracy',", status=2
    ),
    "publish --license mine": Case(
        "publish", "--license mine", "license must be one of ['apache-2.0', 'mit', 'openrail',", status=2
    ),
    "publish --push_to_hub name": Case(
        "publish", "--push_to_hub name", "push_to_hub must be a Hub repository 'user/name'. Got 'name'.", status=2
    ),
    "publish run --folder run": Case(
        "publish", "run --folder run", "unknown argument 'run'. Options are written", status=2
    ),
    "compare --sort x": Case("compare", "--sort x", "unknown option '--sort'. The nearest option is", status=2),
    "ablate --tables 9": Case(
        "ablate", "--tables 9", "tables must be one of ['6', '7', '8', '11']. Got '9'.", status=2
    ),
    "ablate --ipc 0": Case("ablate", "--ipc 0", "ipc must be one or more numbers from 1 on. Got [0].", status=2),
    "information --temperature 0": Case(
        "information", "--temperature 0", "temperature must be positive. Got 0.0.", status=2
    ),
    "information --seed many": Case(
        "information", "--seed many", "argument --seed: invalid int value: 'many'", status=2
    ),
    "beta_study --sharpness x": Case(
        "beta_study", "--sharpness x", "argument --sharpness: invalid float value: 'x'", status=2
    ),
    "beta_study --ipc 0": Case(
        "beta_study", "--ipc 0", "ipc must be one or more numbers from 1 on. Got [0].", status=2
    ),
    "verify --revision": Case("verify", "--revision", "argument --revision: expected one argument", status=2),
    "preset dup": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml must be valid YAML. Line 3: the key 'epochs' is there twice.",
        write("mine.yaml", "teacher:\n  epochs: 1\n  epochs: 2\n"),
        status=2,
    ),
    "preset laughs": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml must be valid YAML. Its aliases make more than 1,000,000",
        write("mine.yaml", LAUGHS),
        status=2,
    ),
    "preset deep": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml must be valid YAML. It is nested too deeply.",
        write("mine.yaml", "teacher: " + DEEP[:5000]),
        status=2,
    ),
    "preset code": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml must be valid YAML. Line 1: could not determine a constructor",
        write("mine.yaml", "teacher: !!python/object/apply:os.mkdir [x]"),
        status=2,
    ),
    "preset broken": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml must be valid YAML. Line 1: expected the node content, but",
        write("mine.yaml", "teacher: ["),
        status=2,
    ),
    "preset words": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml must have a section `teacher:` with settings. Got text.",
        write("mine.yaml", "text"),
        status=2,
    ),
    "preset smuggled": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml: save_epochs must be a plain value or a list of them. Got [1,",
        write("mine.yaml", "teacher:\n  save_epochs: [1, --overwrite]\n"),
        status=2,
    ),
    "preset nested": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml: epochs must be a plain value or a list of them. Got {'a': 1}.",
        write("mine.yaml", "teacher:\n  epochs: {a: 1}\n"),
        status=2,
    ),
    "preset unknown": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml: unknown key 'epoch' in section `teacher:`. The nearest key",
        write("mine.yaml", "teacher:\n  epoch: 1\n"),
        status=2,
    ),
    "preset list": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml must have a section `teacher:` with settings. Got ['teacher'].",
        write("mine.yaml", "teacher: [1]"),
        status=2,
    ),
    "preset latin": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml must be valid YAML. 'utf-8' codec can't decode byte 0xff in",
        write("mine.yaml", b"teacher: \xff"),
        status=2,
    ),
    "preset empty": Case(
        "train_teacher",
        "--preset mine.yaml",
        "mine.yaml must have a section `teacher:` with settings. Got None.",
        write("mine.yaml", ""),
        status=2,
    ),
    "preset range": Case(
        "train_teacher",
        "--preset mine.yaml",
        "epochs must be at least 1. Got 0.",
        write("mine.yaml", "teacher:\n  epochs: 0\n"),
        status=2,
    ),
    "preset type": Case(
        "train_teacher",
        "--preset mine.yaml",
        "argument --epochs: invalid int value: 'many'",
        write("mine.yaml", "teacher:\n  epochs: many\n"),
        status=2,
    ),
    "preset missing": Case(
        "train_teacher", "--preset other.yaml", "preset must be one of ['cifar10', 'demo', 'imagenette',", status=2
    ),
    "preset unknown name": Case(
        "distill", "--preset cifar", "preset must be one of ['cifar10', 'demo', 'imagenette',", status=2
    ),
    "data missing": Case(
        "train_teacher",
        "--dataset nowhere --output_dir out",
        "dataset must be a Hub id, a local image folder, a local parquet folder",
    ),
    "data file of another kind": Case(
        "train_teacher",
        "--dataset a.txt --output_dir out",
        "A dataset file must be one of ['.parquet', '.csv', '.tsv', '.jsonl',",
        write("a.txt", "x"),
    ),
    "data empty folder": Case(
        "train_teacher",
        OWN,
        "dataset must be a Hub id, a local image folder, a local parquet folder",
        lambda folder: (folder / "own").mkdir(),
    ),
    "data damaged parquet": Case(
        "train_teacher",
        OWN,
        "dataset must be a Hub id, a local image folder, a local parquet folder",
        both(write("own/train.parquet", b"PAR1 no PAR1")),
    ),
    "data cut parquet": Case(
        "train_teacher",
        "--dataset images --output_dir out",
        "dataset must be a Hub id, a local image folder, a local parquet folder",
        cut("images/train.parquet"),
    ),
    "data script": Case(
        "train_teacher",
        OWN,
        "dataset must be a Hub id, a local image folder, a local parquet folder",
        write("own/own.py", "raise SystemExit"),
    ),
    "data no image column": Case(
        "train_teacher", OWN, "One column must hold images. Got label (int64). If one holds paths,", table(label=[0, 1])
    ),
    "data no label column": Case(
        "train_teacher",
        OWN,
        "One column must hold class labels. Got image (binary). Name it with",
        table(image=[b"x", b"y"]),
    ),
    "data damaged images": Case(
        "train_teacher",
        OWN,
        "images must be readable, one of them at least. Got 2 of 2 images that cannot be",
        table(image=[b"x", b"y"], label=[0, 1]),
    ),
    "data no rows": Case(
        "train_teacher",
        OWN,
        "dataset must be a Hub id, a local image folder, a local parquet folder",
        table(image=pa.array([], pa.binary()), label=pa.array([], pa.int64())),
    ),
    "data split missing": Case(
        "train_teacher",
        "--dataset images --train_split other --output_dir out",
        "split must be one of ['train', 'test'], the splits of 'images'. Got",
    ),
    "data eval split missing": Case(
        "train_teacher",
        "--dataset images --eval_split other --output_dir out",
        "split must be one of ['train', 'test'], the splits of 'images'. Got",
    ),
    "data image column missing": Case(
        "train_teacher",
        "--dataset images --image_column photo --output_dir out",
        "image_column must be one of ['image', 'label']. Got 'photo'.",
    ),
    "data label column missing": Case(
        "train_teacher",
        "--dataset images --label_column kind --output_dir out",
        "label_column must be one of ['image', 'label']. Got 'kind'.",
    ),
    "data sides differ": Case(
        "train_teacher",
        OWN,
        "Images must be square and of one size. Got 8x8 (row 0) and 9x8 (row 2).",
        both(
            pictures("train/a/1.png", "train/b/1.png"),
            lambda folder: Image.new("RGB", (9, 8)).save(folder / "own/train/b/2.png"),
        ),
    ),
    "data an image that is none": Case(
        "train_teacher",
        OWN,
        "images must be readable. Got 1 of 3 images that cannot be read:",
        both(pictures("train/a/1.png", "train/b/1.png"), write("own/train/b/2.png", "text")),
    ),
    "data hidden splits": Case(
        "train_teacher",
        OWN,
        "Split folders must be called train, validation or test, and lie at the",
        pictures("data/train/a/1.png", "data/test/a/1.png"),
    ),
    "data splits beside classes": Case(
        "train_teacher",
        OWN,
        "Folders in own must all be splits or all be classes. Got the splits",
        pictures("train/a/1.png", "cats/1.png"),
    ),
    "data no evaluation split": Case(
        "train_teacher",
        "--dataset own --epochs 1 --output_dir out",
        "'own' must have a split named test or validation, with labels, to",
        pictures("train/a/1.png", "train/b/1.png"),
    ),
    "data control character": Case(
        "train_teacher",
        OWN,
        "Class names of column 'label' must have no control characters or marks",
        pictures("train/a\n/1.png", "train/b/1.png", "test/b/1.png", "test/a\n/1.png"),
    ),
    "data turned line": Case(
        "train_teacher",
        OWN,
        "Class names of column 'label' must have no control characters or marks",
        pictures("train/a\u202e/1.png", "train/b/1.png", "test/b/1.png", "test/a\u202e/1.png"),
    ),
    "data labels missing": Case(
        "train_teacher",
        OWN,
        "Every row must have a label. Got 1 of 1 rows of column 'label' with",
        table(image=[b"x"], label=pa.array([None], pa.int64())),
    ),
    "data labels negative": Case(
        "train_teacher",
        OWN,
        "Every row must have a label. Got 1 of 1 rows of column 'label' with",
        table(image=[b"x"], label=[-1]),
    ),
    "data labels float": Case(
        "train_teacher",
        OWN,
        "Labels must be a ClassLabel, text, whole numbers or truth values. Got",
        table(image=[b"x"], label=[0.5]),
    ),
    "data config of none": Case(
        "train_teacher",
        "--dataset images --dataset_config other --output_dir out",
        "dataset must be a Hub id, a local image folder, a local parquet folder",
    ),
    "output is a file": Case("train_teacher", TRAIN, "output_dir must be a folder. Got out, where", write("out", "x")),
    "output is the data": Case(
        "train_teacher",
        "--dataset images --epochs 1 --output_dir images/out",
        "output_dir must be apart from what is read. Got images/out, and images as dataset.",
    ),
    "output is the teacher": Case(
        "distill",
        DISTIL.replace("--output_dir out", "--output_dir teacher"),
        "output_dir must be apart from what is read. Got teacher, and teacher as teacher.",
    ),
    "output is the network that labels": Case(
        "distill",
        DISTIL.replace("--output_dir out", "--label_teacher teacher/epoch_2 --output_dir teacher/epoch_2"),
        "output_dir must be apart from what is read. Got teacher/epoch_2, and teacher/epoch_2 as label_teacher.",
        write("teacher/epoch_2/config.json", "{}"),
    ),
    "output is the prior to start from": Case(
        "train_prior",
        "--dataset images --epochs 1 --init prior --output_dir prior --overwrite",
        "output_dir must be apart from what is read. Got prior, and prior as init.",
    ),
    **{
        f"output of another kind of run, {command}{number or ''}": Case(
            command, f"{words} --dry_run", f"output_dir must be empty or hold {kind}. Got out, which holds", OTHER_RUN
        )
        for number, (command, words, kind) in enumerate(
            [
                ("train_teacher", TRAIN, "a teacher"),
                ("train_estimator", TRAIN, "an estimator"),
                ("train_prior", TRAIN, "a prior"),
                ("distill", DISTIL, "a distilled dataset"),
                ("distill", IGDS, "a distilled dataset"),
                ("sample", SAMPLE, "samples of a prior"),
            ]
        )
    },
    "output holds other files": Case(
        "train_teacher",
        TRAIN,
        "output_dir must be empty or hold an earlier run. Got out, which holds",
        write("out/a", "x"),
    ),
    "output of a list": Case(
        "train_teacher",
        TRAIN,
        "out/run.json must be a JSON object. Got [1]: restore the file, or move",
        write("out/run.json", "[1]"),
    ),
    "output of damaged JSON": Case(
        "train_teacher",
        TRAIN,
        "out/run.json must be JSON. Expecting property name enclosed in double",
        write("out/run.json", "{"),
    ),
    "output of another run": Case(
        "distill",
        DISTIL,
        "output_dir must be empty or hold a run with the same configuration. Got",
        write("out/run.json", '{"method": 1}'),
    ),
    "model unknown": Case(
        "train_teacher",
        f"{TRAIN} --model alexnet",
        "model must be one of ['convnet3', 'convnet3_instance', 'convnet4',",
    ),
    "encoder unknown": Case(
        "train_estimator",
        f"{TRAIN} --encoder alexnet",
        "encoder must be one of ['resnet10', 'resnet18', 'resnet50'] (with an",
    ),
    "teacher missing": Case(
        "distill",
        "--dataset images --teacher nowhere --output_dir out",
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
    ),
    "teacher not named": Case(
        "distill",
        "--dataset images --output_dir out",
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
    ),
    "teacher empty folder": Case(
        "distill",
        "--dataset images --teacher own --output_dir out",
        "teacher must be a folder with config.json and model.safetensors. Got",
        lambda folder: (folder / "own").mkdir(),
    ),
    "teacher config broken": Case(
        "distill",
        DISTIL,
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
        write("teacher/config.json", "{"),
    ),
    "teacher config list": Case(
        "distill",
        DISTIL,
        "Unrecognized model in teacher. Should have a `model_type` key in its",
        write("teacher/config.json", "[1]"),
    ),
    "teacher config deep": Case(
        "distill",
        DISTIL,
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
        write("teacher/config.json", DEEP),
    ),
    "teacher config binary": Case(
        "distill",
        DISTIL,
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
        write("teacher/config.json", b"\xff\xfe"),
    ),
    "teacher config of no type": Case(
        "distill",
        DISTIL,
        "The repository teacher contains custom code which must be executed to",
        change("teacher/config.json", model_type=None),
    ),
    "teacher config unknown type": Case(
        "distill",
        DISTIL,
        "The repository teacher contains custom code which must be executed to",
        change("teacher/config.json", model_type="other"),
    ),
    "teacher depth of text": Case(
        "distill",
        DISTIL,
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
        change("teacher/config.json", depth="three"),
    ),
    "teacher wider": Case(
        "distill",
        DISTIL,
        "teacher 'teacher' must hold weights in the shapes of its network. Got",
        change("teacher/config.json", width=16),
    ),
    "teacher huge": Case(
        "distill",
        DISTIL,
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
        change("teacher/config.json", width=10**6),
    ),
    "teacher std zero": Case(
        "distill",
        DISTIL,
        "image_mean and image_std of teacher 'teacher' must be finite, and the",
        change("teacher/config.json", image_std=[0.0] * 3),
    ),
    "teacher std text": Case(
        "distill",
        DISTIL,
        "image_mean and image_std of teacher 'teacher' must be finite, and the",
        change("teacher/config.json", image_std="x"),
    ),
    "teacher std short": Case(
        "distill",
        DISTIL,
        "mean and std must have 3 values, one per channel. Got 3 and 1.",
        change("teacher/config.json", image_std=[1.0]),
    ),
    "teacher size text": Case(
        "distill",
        DISTIL,
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
        change("teacher/config.json", image_size="x"),
    ),
    "teacher size negative": Case(
        "distill",
        DISTIL,
        "depth must be at most 1 for images of -3 px, since each block halves",
        change("teacher/config.json", image_size=-3),
    ),
    "teacher labels twice": Case(
        "distill",
        DISTIL,
        "Each class of the dataset images must be one class of the teacher",
        change("teacher/config.json", id2label={"0": "a", "1": "a", "2": "b"}),
    ),
    "teacher labels others": Case(
        "distill",
        DISTIL,
        "Each class of the dataset images must be one class of the teacher",
        change("teacher/config.json", id2label={"0": "x", "1": "y", "2": "z"}),
    ),
    "teacher labels list": Case(
        "distill",
        DISTIL,
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
        change("teacher/config.json", id2label=["a"]),
    ),
    "teacher weights cut": Case(
        "distill",
        DISTIL,
        "weights must be safetensors. Got 'teacher' with damaged or other ones:",
        cut("teacher/model.safetensors"),
    ),
    "teacher weights text": Case(
        "distill",
        DISTIL,
        "weights must be safetensors. Got 'teacher' with damaged or other ones:",
        write("teacher/model.safetensors", "text"),
    ),
    "teacher weights missing": Case(
        "distill",
        DISTIL,
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
        remove("teacher/model.safetensors"),
    ),
    "teacher weights empty": Case(
        "distill",
        DISTIL,
        "weights must be safetensors. Got 'teacher' with damaged or other ones:",
        write("teacher/model.safetensors", b""),
    ),
    "ipc too large": Case(
        "distill",
        "--dataset images --teacher teacher --allow_weak_teacher --ipc 1000 --output_dir out",
        "Class 'red' must have at least 1000 candidates for 1 tiles x IPC 1000.",
    ),
    "forgetting unknown": Case(
        "distill",
        f"{DISTIL} --method forgetting",
        "teacher must be a folder with the forgetting events of its training,",
    ),
    "forgetting damaged": Case(
        "distill",
        f"{DISTIL} --method forgetting",
        "teacher/forgetting.safetensors must be as training left it. It is",
        write("teacher/forgetting.safetensors", "text"),
    ),
    "label map missing": Case(
        "distill",
        f"{DISTIL} --label_map map.csv",
        "label_map must be an existing .json, .yaml or .csv file. Got 'map.csv'.",
    ),
    "label map words": Case(
        "distill",
        f"{DISTIL} --label_map map.json",
        "label_map must map each class name of the dataset to a name or number",
        write("map.json", "5"),
    ),
    "label map deep": Case(
        "distill",
        f"{DISTIL} --label_map map.json",
        "label_map must be a valid .json file. Got 'map.json': maximum recursion",
        write("map.json", DEEP),
    ),
    "label map binary": Case(
        "distill",
        f"{DISTIL} --label_map map.csv",
        "label_map must be a valid .csv file. Got 'map.csv': 'utf-8' codec",
        write("map.csv", b"\xff\xfe"),
    ),
    "label map laughs": Case(
        "distill",
        f"{DISTIL} --label_map map.yaml",
        "label_map must be a valid .yaml file. Got 'map.yaml': map.yaml must be",
        write("map.yaml", LAUGHS),
    ),
    "prior missing": Case(
        "distill",
        IGDS.replace("prior prior", "prior nowhere"),
        "prior must be an existing folder or a Hub id 'user/name'. Got 'nowhere'.",
    ),
    "prior index broken": Case(
        "distill",
        IGDS,
        "prior must be a diffusers pipeline in DDPM or DiT layout, with",
        write("prior/model_index.json", "{"),
    ),
    "prior index list": Case(
        "distill",
        IGDS,
        "prior must be a diffusers pipeline in DDPM or DiT layout, with",
        write("prior/model_index.json", "[1]"),
    ),
    "prior index deep": Case(
        "distill",
        IGDS,
        "prior must be a diffusers pipeline in DDPM or DiT layout, with",
        write("prior/model_index.json", DEEP),
    ),
    "prior index empty": Case(
        "distill",
        IGDS,
        "prior must be a diffusers pipeline in DDPM or DiT layout, with safetensors. Got 'prior', which cannot be",
        write("prior/model_index.json", "{}"),
    ),
    "prior scheduler unknown": Case(
        "distill",
        IGDS,
        "prior must have a scheduler of diffusers. Got prior with ['diffusers',",
        change("prior/model_index.json", scheduler=["diffusers", "Other"]),
    ),
    "prior scheduler giant": Case(
        "distill",
        IGDS,
        "num_train_timesteps must be a whole number from 1 to 100,000 in the",
        change("prior/scheduler/scheduler_config.json", num_train_timesteps=10**10),
    ),
    "prior scheduler text": Case(
        "distill",
        IGDS,
        "num_train_timesteps must be a whole number from 1 to 100,000 in the",
        change("prior/scheduler/scheduler_config.json", num_train_timesteps="x"),
    ),
    "prior scheduler deep": Case(
        "distill",
        IGDS,
        "prior must be a diffusers pipeline in DDPM or DiT layout, with",
        write("prior/scheduler/scheduler_config.json", DEEP),
    ),
    "prior scheduler broken": Case(
        "distill",
        IGDS,
        "prior must be a diffusers pipeline in DDPM or DiT layout, with",
        write("prior/scheduler/scheduler_config.json", "{"),
    ),
    "prior unet broken": Case(
        "distill",
        IGDS,
        "prior must be a diffusers pipeline in DDPM or DiT layout, with",
        write("prior/unet/config.json", "{"),
    ),
    "prior unet channels": Case(
        "distill",
        IGDS,
        "unet of the prior 'prior' must hold weights in the shapes of its",
        change("prior/unet/config.json", in_channels=1, out_channels=1),
    ),
    "prior weights cut": Case(
        "distill",
        IGDS,
        "prior must be a diffusers pipeline in DDPM or DiT layout, with",
        cut("prior/unet/diffusion_pytorch_model.safetensors"),
    ),
    "prior weights missing": Case(
        "distill",
        IGDS,
        "prior must be a diffusers pipeline in DDPM or DiT layout, with",
        remove("prior/unet/diffusion_pytorch_model.safetensors"),
    ),
    "estimator missing": Case(
        "distill",
        IGDS.replace("estimator estimator", "estimator nowhere"),
        "estimator must be 'sample', an existing folder or a Hub id 'user/name'.",
    ),
    "estimator is a teacher": Case(
        "distill",
        IGDS.replace("estimator estimator", "estimator teacher"),
        "estimator must be a variational estimator. Got 'teacher', a",
    ),
    "estimator config broken": Case(
        "distill",
        IGDS,
        "estimator must be an existing folder or a Hub id 'user/name'. Got",
        write("estimator/config.json", "{"),
    ),
    "estimator config list": Case(
        "distill",
        IGDS,
        "Unrecognized model in estimator. Should have a `model_type` key in its",
        write("estimator/config.json", "[1]"),
    ),
    "estimator weights cut": Case(
        "distill",
        IGDS,
        "weights must be safetensors. Got 'estimator' with damaged or other",
        cut("estimator/model.safetensors"),
    ),
    "distilled missing": Case(
        "evaluate",
        "--distilled nowhere --ipc 1 --dataset images --no_baseline --students convnet3_w8 --labels hard",
        "distilled must be an existing folder or a Hub id 'user/name'. Got",
    ),
    "distilled is a teacher": Case(
        "evaluate",
        "--distilled teacher --ipc 1 --dataset images --no_baseline --students convnet3_w8 --labels hard",
        "distilled must be a folder with manifest.json, which distilling ends",
    ),
    "distilled ipc": Case(
        "evaluate",
        "--distilled run --ipc 7 --dataset images --no_baseline --students convnet3_w8 --labels hard",
        "ipc must be one of [1, 2], those of run. Got 7.",
    ),
    "manifest broken": Case(
        "evaluate",
        EVALUATE,
        "run/manifest.json must be JSON. Expecting property name enclosed in",
        write("run/manifest.json", "{"),
    ),
    "manifest list": Case(
        "evaluate",
        EVALUATE,
        "run: manifest.json cannot be used. manifest.json must be a mapping. Got",
        write("run/manifest.json", "[1]"),
    ),
    "manifest deep": Case(
        "evaluate",
        EVALUATE,
        "run/manifest.json must be JSON. It is nested too deeply.",
        write("run/manifest.json", DEEP),
    ),
    "manifest keys twice": Case(
        "evaluate",
        EVALUATE,
        "run/manifest.json must be JSON. The key 'ipcs' is there twice.",
        write("run/manifest.json", '{"ipcs": [1], "ipcs": [2]}'),
    ),
    "manifest empty": Case(
        "evaluate",
        EVALUATE,
        "run: manifest.json cannot be used. config must be a mapping. It is",
        write("run/manifest.json", "{}"),
    ),
    "distilled data cut": Case(
        "evaluate",
        EVALUATE,
        "data/ipc_1/train-00000-of-00001.parquet of run must be parquet that can be read.",
        cut("run/data/ipc_1/train-00000-of-00001.parquet"),
    ),
    "distilled data missing": Case(
        "evaluate",
        EVALUATE,
        "run must hold data/ipc_1/*.parquet. Got none: distil or download it",
        remove("run/data/ipc_1/train-00000-of-00001.parquet"),
    ),
    "results list": Case(
        "evaluate",
        EVALUATE,
        "run/results.json must be a list of result records. Got something else;",
        write("run/results.json", "[1]"),
    ),
    "results broken": Case(
        "evaluate",
        EVALUATE,
        "run/results.json must be JSON. Expecting property name enclosed in",
        write("run/results.json", "{"),
    ),
    "protocol unknown": Case(
        "evaluate",
        f"{EVALUATE} --protocols other",
        "protocol must be one of ['igds_adam', 'igds_transfer', 'minimax_hard',",
    ),
    "protocol laughs": Case(
        "evaluate",
        f"{EVALUATE} --protocols own.yaml",
        "own.yaml must be valid YAML. Its aliases make more than 1,000,000",
        write("own.yaml", LAUGHS),
    ),
    "protocol keys twice": Case(
        "evaluate",
        f"{EVALUATE} --protocols own.yaml",
        "own.yaml must be valid YAML. Line 2: the key 'name' is there twice.",
        write("own.yaml", "name: a\nname: b\n"),
    ),
    "student unknown": Case(
        "evaluate",
        "--distilled run --ipc 1 --dataset images --no_baseline --students alexnet --labels hard",
        "students must be one of ['convnet3', 'convnet3_instance', 'convnet4',",
    ),
    "verify missing": Case("verify", "nowhere", "source must be an existing folder or a Hub id 'user/name'. Got"),
    "verify revision of a folder": Case(
        "verify", "run --revision v1", "revision must be left out for a folder. Got 'v1' for run."
    ),
    "verify a file": Case(
        "verify",
        "a.txt",
        "source must be an existing folder or a Hub id 'user/name'. Got 'a.txt'.",
        write("a.txt", "x"),
    ),
    "publish missing": Case(
        "publish", "nowhere --push_to_hub user/set", "folder must be an existing run folder. Got 'nowhere'."
    ),
    "publish empty": Case(
        "publish",
        "own --push_to_hub user/set",
        "folder must hold one of ['dataset', 'estimator', 'pipeline', 'prior',",
        lambda folder: (folder / "own").mkdir(),
    ),
    "publish no repository": Case(
        "publish", "run", "push_to_hub must be a Hub repository 'user/name' to publish to. Got"
    ),
    "publish manifest list": Case(
        "publish",
        "run --push_to_hub user/set",
        "run/manifest.json must be a JSON object. Got [1]: restore the file, or",
        write("run/manifest.json", "[1]"),
    ),
    "publish damaged data": Case(
        "publish",
        "run --push_to_hub user/set",
        "run/data/ipc_1/train-00000-of-00001.parquet must be the file that",
        cut("run/data/ipc_1/train-00000-of-00001.parquet"),
    ),
    "publish unfinished": Case(
        "publish",
        "own --push_to_hub user/set",
        "folder must hold a finished run. Got own: run the command that began it",
        write("own/run.json", "{}"),
    ),
    "publish config deep": Case(
        "publish",
        "teacher --push_to_hub user/set",
        "teacher/config.json must be JSON. It is nested too deeply.",
        both(write("teacher/training.json", "{}"), write("teacher/config.json", DEEP)),
    ),
    "publish pickle": Case(
        "publish",
        "own --push_to_hub user/set",
        "weights must be safetensors. Got own/model.bin, a pickle, which can",
        write("own/model.bin", "x"),
    ),
    "compare missing": Case("compare", "nowhere", "runs must be existing run folders or results files. Got 'nowhere'."),
    "compare no results": Case(
        "compare", "run", "runs must hold accuracies of a distilled set (results.json). Got none"
    ),
    "compare broken results": Case(
        "compare",
        "run",
        "run/results.json must be JSON. Expecting property name enclosed in",
        write("run/results.json", "{"),
    ),
    "compare reported unknown": Case(
        "compare", "run --reported other", "reported must be one of ['igds', 'infoutil'] or a YAML file. Got", RESULTS
    ),
    "compare reported laughs": Case(
        "compare",
        "run --reported own.yaml",
        "own.yaml must be valid YAML. Its aliases make more than 1,000,000",
        both(RESULTS, write("own.yaml", LAUGHS)),
    ),
    "compare reported twice": Case(
        "compare",
        "run --reported own.yaml",
        "own.yaml must be valid YAML. Line 2: the key 'source' is there twice.",
        both(RESULTS, write("own.yaml", "source: a\nsource: b\nresults: []\n")),
    ),
    "sample prior missing": Case(
        "sample",
        "--prior nowhere --estimator estimator --output_dir out",
        "prior must be an existing folder or a Hub id 'user/name'. Got 'nowhere'.",
    ),
    "sample estimator missing": Case(
        "sample",
        "--prior prior --estimator nowhere --output_dir out",
        "estimator must be 'sample', an existing folder or a Hub id 'user/name'.",
    ),
    "information estimator missing": Case(
        "information",
        "--dataset images --estimator nowhere --output_dir out",
        "estimator must be 'sample', an existing folder or a Hub id 'user/name'.",
    ),
    "information data missing": Case(
        "information",
        "--dataset nowhere --estimator estimator --output_dir out",
        "dataset must be a Hub id, a local image folder, a local parquet folder",
    ),
    "information distilled broken": Case(
        "information",
        "--dataset images --estimator estimator --distilled run --output_dir out",
        "run/manifest.json must be JSON. Expecting property name enclosed in",
        write("run/manifest.json", "{"),
    ),
    "ablate teacher missing": Case(
        "ablate",
        "--dataset images --teacher nowhere --output_dir out",
        "teacher must be an existing folder or a Hub id 'user/name'. Got",
    ),
    "ablate data missing": Case(
        "ablate",
        "--dataset nowhere --teacher teacher --output_dir out",
        "dataset must be a Hub id, a local image folder, a local parquet folder",
    ),
}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a teacher, a distilled set, a prior and an estimator, all tiny."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    from worlds import spec_of

    from decoct.igds.loading import build_estimator

    folder = tmp_path_factory.mktemp("bad") / "world"
    write_images(folder / "images", count=9)
    write_teacher(folder / "teacher")
    write_run(folder / "run")
    sizes = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    network = UNet2DModel(sample_size=16, num_class_embeds=3, **sizes, **blocks)
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(folder / "prior")
    build_estimator("resnet10_w4", spec_of(), 16).save_pretrained(folder / "estimator")
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch) -> Path:
    """A copy of the world, in which commands run."""
    folder = Path(shutil.copytree(world, tmp_path / "here"))
    monkeypatch.chdir(folder)
    return folder


def listing(folder: Path) -> dict[str, str]:
    """Files by their hash, and folders."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents(folder).items()}
    return files | {str(path.relative_to(folder)): "folder" for path in folder.rglob("*") if path.is_dir()}


def stage_after(case: Case, stage: Callable[[Any], Stage]) -> Callable[[Any], Stage]:
    """The command's stage, or for words that are wrong by themselves none, since it must not be reached."""

    def accepted(config: Any) -> Stage:
        raise AssertionError(f"{case.words} was accepted: {config}")

    return stage if case.status == 1 else accepted


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_is_one_line_and_changes_nothing(name, here, monkeypatch, capsys):
    case = CASES[name]
    case.make(here)
    before = listing(here)
    config, leading = COMMANDS[case.command]
    script = importlib.import_module(f"decoct.scripts.{case.command}")
    monkeypatch.setattr(sys, "argv", [f"/scripts/{case.command}.py", *case.words.split()])
    with pytest.raises(SystemExit) as stop:
        run_stage(getattr(configs, config), stage_after(case, script.stage), script.__doc__, leading)
    printed = capsys.readouterr()
    start = f"{case.command}.py: error: "
    (line,) = [each for each in printed.err.splitlines() if each.startswith(start)]
    assert line.removeprefix(start).startswith(case.message), line
    assert stop.value.code == case.status and "Traceback" not in printed.err
    assert listing(here) == before


CALLS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "images of a number": ("source must be a Hub id, a path", lambda decoct: decoct.load_images(3)),
    "images of nothing": ("dataset must be a Hub id", lambda decoct: decoct.load_images("nowhere")),
    "images of a split": (
        "split must be one of ['train', 'test']",
        lambda decoct: decoct.load_images("images", "other"),
    ),
    "a classifier of nothing": ("teacher must be", lambda decoct: decoct.load_classifier("nowhere")),
    "a classifier of a set": (
        "teacher must be a folder with config.json",
        lambda decoct: decoct.load_classifier("run"),
    ),
    "an estimator of a teacher": ("estimator must be a variational", lambda decoct: decoct.load_estimator("teacher")),
    "a pipeline of a teacher": (
        "prior must be a diffusers folder with model_index.json",
        lambda decoct: decoct.load_pipeline("teacher", None),
    ),
    "a network by another name": (
        "model must be one of",
        lambda decoct: decoct.build_classifier("alexnet", decoct.ImageSpec(8, 1, (0.5,), (0.5,), ("a",))),
    ),
    "four channels": ("channels must be one of [1, 3]. Got 4.", lambda decoct: decoct.ImageSpec(8, 4, (), (), ())),
    "a mean too few": (
        "mean and std must have 3 values",
        lambda decoct: decoct.ImageSpec(8, 3, (0.5,), (0.5,) * 3, ("a",)),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_is_a_value_error_and_changes_nothing(name, here):
    import decoct

    message, call = CALLS[name]
    before = listing(here)
    with pytest.raises(ValueError) as refused:
        call(decoct)
    assert str(refused.value).startswith(message), refused.value
    assert listing(here) == before
