"""Whether a distilled dataset, in a folder or on the Hub, is what its manifest says; nothing in it is executed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from huggingface_hub import HfApi, get_token, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

from decoct.config import VerifyConfig
from decoct.data.mixed_views import views_digest
from decoct.data.silence import give_up_on_silence
from decoct.data.source import location_of
from decoct.distilled.manifest import check_manifest, unsafe_path
from decoct.files import read_json, shown
from decoct.hub.card_header import card_problems
from decoct.hub.contents import PICKLES
from decoct.hub.errors import is_sendable
from decoct.hub.rows import check_parquet, tile_accuracy
from decoct.models.chance import weakness
from decoct.run.folder import sha256
from decoct.run.lock import LOCK_FILE

__all__ = ["CHECKS", "Problem", "Report", "verify", "verify_folder"]

CHECKS = {
    "paths": "every path stays inside the folder",
    "code": "no pickle and no executable code",
    "manifest": "manifest.json is complete",
    "files": "the files are those that the manifest lists",
    "hashes": "sha256 of every file is the manifest's",
    "card": "configurations of README.md match the data",
    "parquet": "parquet files can be read",
    "schema": "columns, types and shapes are decoct's",
    "labels": "label names are the manifest's, every label is one",
    "counts": "every class has as many images as the IPC",
    "images": "images can be decoded and have the manifest's size",
    "logits": "logits are finite, so that a softmax of them sums to 1",
    "views": "views lie inside the image",
    "tiles": "every tile says where it comes from",
    "teacher": "a sample of the logits is what --teacher says",
}
ASKED = ("teacher",)  # checks that are made where they are asked for
# Written beside the listed files, or added by the Hub; no dataset loads from them.
UNLISTED = (
    *("manifest.json", "report.html", "results.json", "run.json", "evaluation/*", LOCK_FILE),
    *(".gitattributes", "LICENSE*"),
)
CODE_SUFFIXES = {
    *PICKLES,
    *".pt2 .joblib .dill .npy .npz .h5 .keras .py .pyc .pyo .pyd .pyw .ipynb .js .so .dylib .dll .exe".split(),
    *".bat .cmd .ps1 .sh .jar .whl .egg .zip .tar .gz".split(),
}
CODE_STARTS = (b"PK\x03\x04", b"\x7fELF", b"MZ", b"#!", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
CLASSES_SHOWN = 10


@dataclass(frozen=True)
class Problem:
    """What is wrong.

    Args:
        check: One of `CHECKS`.
        where: File or field at fault.
        what: What is wrong with it, with rows and classes.
    """

    check: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{shown(self.where)}: {self.what}"


@dataclass
class Report:
    """What was checked and what is wrong.

    Args:
        source: Folder or Hub id.
        commit: Commit of a Hub repository, None for a folder.
        problems: All that were found.
        checked: The names of the checks that could be made.
        files, size, images: Files that were hashed, their bytes, and images that were read.
        warnings: What is no fault of the files.
        measured: What was compared, in words.
    """

    source: str
    commit: str | None = None
    problems: list[Problem] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    files: int = 0
    size: int = 0
    images: int = 0
    warnings: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check was made and found nothing."""
        return not self.problems and {*CHECKS} - {*ASKED} <= {*self.checked}

    def add(self, check: str, where: str, what: str) -> None:
        """Notes a problem."""
        self.problems.append(Problem(check, where, what))

    def __str__(self) -> str:
        commit = f" at commit {shown(self.commit)}" if self.commit else ""
        lines = [f"{shown(self.source)}{commit}: {self.files:,} files, {self.size:,} bytes, {self.images:,} images"]
        for check, meaning in CHECKS.items():
            found = [problem for problem in self.problems if problem.check == check]
            verdict = "PROBLEM" if found else "OK" if check in self.checked else "not checked"
            lines += [f"  {check:<9} {verdict:<12} {meaning}", *(f"    {problem}" for problem in found)]
        lines += [f"    {each}" for each in self.measured]
        total = len(self.problems)
        verdict = "Everything is as it should be." if self.ok else f"{total} problem{'s' if total != 1 else ''}."
        return "\n".join([*lines, *(f"WARNING: {warning}" for warning in self.warnings), verdict])


def verify(config: VerifyConfig) -> Report:
    """Checks a run folder, or a published dataset, which is downloaded at one commit into the Hub's cache.

    Raises:
        ValueError: If there is no such folder or repository, or a revision is given for a folder.
        OSError: If the download fails: no connection, or no space left.
    """
    source = location_of(config.source, "source")
    if isinstance(source, Path):
        if config.revision is not None:
            raise ValueError(f"revision must be left out for a folder. Got {config.revision!r} for {source}.")
        return verify_folder(source, config.teacher, config.sample)
    folder = download(source, config.revision)
    report = verify_folder(folder, config.teacher, config.sample)
    report.source, report.commit = source, folder.name
    return report


def download(repository: str, revision: str | None) -> Path:
    """All files of a Hub dataset at one commit, as a snapshot folder of the cache that is named by the commit."""
    token = get_token() or ""
    if not is_sendable(token):
        raise PermissionError(f"{repository} could not be downloaded: HF_TOKEN is not a token. Set it again, or none.")
    give_up_on_silence()
    try:
        # Asked first, since a snapshot alone would be taken from the cache where the Hub refuses or is down.
        commit = HfApi().dataset_info(repository, revision=revision).sha
        return Path(snapshot_download(repository, repo_type="dataset", revision=commit))
    except RevisionNotFoundError as error:
        raise ValueError(f"revision must be a branch, tag or commit of {repository}. Got {revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"source must be an existing folder or a dataset on the Hub that your token may read. Got {repository!r}."
        ) from error
    except (OSError, HTTPError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            raise PermissionError(
                f"{repository} could not be downloaded: the Hub does not accept the token "
                f"({error.response.status_code}). Log in by `hf auth login`, or set HF_TOKEN to one that may read it."
            ) from error
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(
                f"{repository} could not be downloaded: no space left in the Hub's cache. Free some, or set HF_HOME to "
                "a folder on another disk; files that are complete are kept."
            ) from error
        first = shown(str(error).strip().split("\n")[0].replace(token or "\n", "***"))
        raise OSError(
            f"{repository} could not be downloaded: {first}. Check the connection and run the command again; files "
            "that are complete are kept."
        ) from error


def verify_folder(folder: Path, teachers: Sequence[str] = (), sample: int = VerifyConfig.sample) -> Report:
    """Checks a run folder; rows are read few at a time.

    Paths that leave the folder are named and not opened, and no other file is opened for its content than those that
    the manifest lists.

    Args:
        teachers: Folders or Hub ids of teachers to compare a sample of the logits with, if nothing else is wrong.
        sample: How many of each kind and IPC.

    Raises:
        ValueError: If the folder does not exist, or a teacher is none of the set's classes and images.
    """
    if not folder.is_dir():
        raise ValueError(f"source must be an existing folder. Got {folder}.")
    report = Report(str(folder))
    files = list_files(folder.resolve(), report)
    report_code(files, report)
    manifest = read_checked_manifest(files, report)
    report.checked += ["paths", "code", "manifest"]
    if manifest is None:
        return report
    listed = {name: digest for name, digest in manifest["files"].items() if unsafe_path(name) is None}
    check_files(files, listed, manifest, report)
    report_hashes(files, listed, report)
    for what in card_problems(files.get("README.md"), manifest):
        report.add("card", "README.md", what)
    check_contents(files, listed, manifest, report)
    left_out = set(ASKED)
    if report.problems:
        left_out.add("views")  # counts and sizes that are wrong may be absurd too
    else:
        check_geometry(manifest, report)
    report.checked = [check for check in CHECKS if check not in left_out]
    if "imported" in manifest:
        report.measured.append("The set was imported: it does not say where its tiles come from.")
    if teachers and not report.problems:
        check_teachers(folder, manifest, teachers, sample, report)
    return report


def check_geometry(manifest: dict[str, Any], report: Report) -> None:
    """Computes where mixed views lie, and compares with what the manifest notes of it; older ones note nothing."""
    config, noted = manifest["config"], manifest.get("mixed_views")
    if not config.get("slots") or not isinstance(noted, dict):
        return
    shared = {"slots": config["slots"], "seed": config["seed"], "smallest_area": config["view_scale"]}
    for ipc in manifest["ipcs"]:
        count = ipc * len(manifest["label_names"])
        digest = views_digest(count=count, side=manifest["image_size"], **shared)
        if noted.get(str(ipc)) != digest:
            what = (
                f"seed and view_scale give mixed views {digest} for IPC {ipc}, it notes {shown(noted.get(str(ipc)))}."
            )
            report.add("views", "manifest.json", what)


def check_teachers(folder: Path, manifest: dict[str, Any], names: Sequence[str], sample: int, report: Report) -> None:
    """Compares a sample of the stored logits with what the teachers say now."""
    from decoct.hub.labels import compare_with_teachers, load_teachers  # networks take seconds to import

    teachers = load_teachers(names, manifest)
    for ipc in manifest["ipcs"]:
        for column, compared in compare_with_teachers(folder, manifest, ipc, teachers, sample).items():
            if compared.ok:
                error = f"{compared.largest:.3g} ({compared.largest_steps:.2g} steps of the quantisation at most)"
                labels = f"{compared.labels:,} of {compared.of:,} labels"
                report.measured.append(f"ipc_{ipc}, {column}: {labels}, largest error {error}.")
            else:
                error = f"{compared.error:.3g} ({compared.error / compared.step:.2g} steps of the quantisation)"
                what = f"{column} at {compared.place} is not what {' + '.join(names)} says: off by {error}."
                report.add("teacher", f"data/ipc_{ipc}", what)
    report.checked.append("teacher")


def list_files(folder: Path, report: Report) -> dict[str, Path]:
    """The regular files below a folder, by their path in it; what leads out of it is a problem and left out."""
    # A snapshot of the Hub's cache consists of links to files beside it.
    home = folder.parents[1] if folder.parent.name == "snapshots" else folder
    files = {}
    for root, folders, names in os.walk(folder):
        here = Path(root)
        # A git clone's history, and the client's notes on what it downloaded, are not part of the dataset.
        folders[:] = [name for name in folders if here / name not in (folder / ".git", folder / ".cache/huggingface")]
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*links, *names]):
            path = here / name
            inside = path.relative_to(folder).as_posix()
            if reason := unsafe_path(inside):
                report.add("paths", inside, f"{reason}; it was not opened.")
            elif not path.resolve().is_relative_to(home):
                report.add("paths", inside, "is a link that leads out of the folder; it was not opened.")
            elif name in links or not path.exists() or not stat.S_ISREG(path.stat().st_mode):
                report.add("paths", inside, "is not a regular file; it was not opened.")
            else:
                files[inside] = path
    return files


def report_code(files: dict[str, Path], report: Report) -> None:
    """Names files that are pickles, archives or programs, by their names or their first bytes."""
    for name, path in files.items():
        with path.open("rb") as file:
            start = file.read(4)
        if {suffix.lower() for suffix in PurePosixPath(name).suffixes} & CODE_SUFFIXES:
            report.add("code", name, "may hold code by its name; a distilled dataset needs none. Do not load it.")
        elif start.startswith(CODE_STARTS):
            report.add("code", name, "begins like a pickle, an archive or a program. Do not load it.")


def read_checked_manifest(files: dict[str, Path], report: Report) -> dict[str, Any] | None:
    """The manifest, or None where it is missing or says too little to go on."""
    if "manifest.json" not in files:
        report.add("manifest", "manifest.json", "is missing; distilling and publishing end with it.")
        return None
    try:
        manifest = read_json(files["manifest.json"])
    except ValueError as error:
        report.add("manifest", "manifest.json", str(error))
        return None
    problems = check_manifest(manifest)
    for what in problems:
        report.add("manifest", "manifest.json", what)
    for name in manifest["files"] if not problems else ():
        if reason := unsafe_path(name):
            report.add("paths", "manifest.json", f"lists {shown(name)!r}, which {reason}; it was not opened.")
    return None if problems else manifest


def check_files(files: dict[str, Path], listed: dict[str, str], manifest: dict[str, Any], report: Report) -> None:
    """Names files that are missing, not listed, or of another IPC."""
    for name in sorted({*listed} - {*files}):
        report.add("files", name, "is listed in manifest.json and missing.")
    for name in sorted({*files} - {*listed}):
        if not any(fnmatchcase(name, pattern) for pattern in UNLISTED):
            loads = ", though load_dataset reads it" if name.startswith("data/") else ""
            report.add("files", name, f"is not listed in manifest.json{loads}.")
    for name in ("README.md", "preview.png"):
        if name not in listed:
            report.add("files", "manifest.json", f"does not list {name}.")
    folders = {f"data/ipc_{ipc}" for ipc in manifest["ipcs"]}
    found = {str(PurePosixPath(name).parent) for name in listed if name.startswith("data/")}
    for name in sorted(folders - found):
        report.add("files", "manifest.json", f"lists no file of {name}, though it names this IPC.")
    for name in sorted(found - folders):
        report.add("files", "manifest.json", f"lists files of {shown(name)}, which is none of the IPCs.")


def report_hashes(files: dict[str, Path], listed: dict[str, str], report: Report) -> None:
    """Hashes the listed files; where no data file is the manifest's, says that it may belong elsewhere."""
    right = set()
    for name, digest in listed.items():
        if name in files:
            report.files += 1
            report.size += files[name].stat().st_size
            if (got := sha256(files[name])) == digest:
                right.add(name)
            else:
                report.add("hashes", name, f"has sha256 {got}, the manifest says {digest}: download or write it again.")
    data = {name for name in listed if name.startswith("data/")}
    if len(data) > 1 and not data & right:
        report.add("hashes", "manifest.json", "fits none of the data files: it may be that of another dataset.")


def check_contents(files: dict[str, Path], listed: dict[str, str], manifest: dict[str, Any], report: Report) -> None:
    """Checks rows and columns of the parquet files, and the images of each class."""
    names = manifest["label_names"]
    for ipc in manifest["ipcs"]:
        folder = f"data/ipc_{ipc}"
        counts = np.zeros(len(names), dtype=np.int64)
        complete = True
        for name in sorted(name for name in listed if str(PurePosixPath(name).parent) == folder):
            if name not in files:
                complete = False
                continue
            problems, found = check_parquet(files[name], manifest, ipc)
            for check, what in problems:
                report.add(check, name, what)
                complete &= check not in ("parquet", "schema")
            counts += found
        report.images += int(counts.sum())
        wrong = np.flatnonzero(counts != ipc).tolist() if complete else []
        shares = [f"{shown(names[label])!r} has {counts[label]:,}" for label in wrong[:CLASSES_SHOWN]]
        if shares:
            more = f" and {len(wrong) - CLASSES_SHOWN:,} more classes differ" if len(wrong) > CLASSES_SHOWN else ""
            report.add("counts", folder, f"must have {ipc:,} images of every class: {', '.join(shares)}{more}.")
        if complete and not report.problems:
            paths = [files[name] for name in listed if str(PurePosixPath(name).parent) == folder]
            share = tile_accuracy(paths)
            if share is not None and (fault := weakness(share, len(names), "The teacher", f"the tiles of {folder}")):
                report.warnings.append(fault)
