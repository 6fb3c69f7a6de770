"""Publishing a finished run on the Hub: a distilled dataset, teacher, estimator, prior or IGDS pipeline."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.constants import DEFAULT_REVISION
from huggingface_hub.utils import validate_repo_id

from decoct.config import PublishConfig, PublishingConfig, fields_that_matter_for
from decoct.data.silence import give_up_on_silence
from decoct.distilled.manifest import MANIFEST
from decoct.files import read_json, read_object
from decoct.hub.contents import CARD, Contents, contents_of, kind_of, repo_type_of
from decoct.hub.errors import hub_errors, require_token
from decoct.hub.upload import Push, push
from decoct.pages.dataset_card import dataset_card
from decoct.pages.local_paths import without_local_paths
from decoct.pages.model_cards import EVAL_RESULTS, eval_results, model_card
from decoct.pages.report import REPORT, kept_sources, render
from decoct.pages.source import GivenInfo
from decoct.results.records import read_results
from decoct.run.folder import json_text

__all__ = [
    "format_push",
    "kind_of",
    "plan_publish",
    "publish",
    "publish_run",
    "require_publishing",
]

logger = logging.getLogger(__name__)


def publish(config: PublishConfig, api: HfApi | None = None) -> str:
    """Uploads a finished run folder to `config.push_to_hub`, in one commit; the folder itself is not changed.

    The same call completes a push that was cut off, and makes no commit where nothing has changed. Card and manifest
    are written for the repository: examples load its id, and the manifest has the hash of its card. Paths of this
    machine are shortened to their last part in all that is uploaded.

    Args:
        api: Client of another endpoint or token. Default: the Hub, with the token of `hf auth login` or HF_TOKEN.

    Returns:
        The repository's address.

    Raises:
        ValueError: If the folder cannot be published, or the repository holds something else.
        PermissionError: If there is no token, or it may not write to the repository.
        ConnectionError: If the Hub cannot be reached.
    """
    wanted = plan_publish(config)
    if wanted.contents.left_out:
        logger.warning("Left out of the upload: %s", ", ".join(wanted.contents.left_out))
    token = api.token if api is not None and isinstance(api.token, str) else require_token(wanted.repo_id)
    give_up_on_silence()
    with hub_errors(wanted.repo_id, token):
        return push(api or HfApi(token=token, library_name="decoct"), wanted)


def plan_publish(config: PublishConfig) -> Push:
    """What `publish` would upload, without contact to the Hub.

    Raises:
        ValueError: If the folder cannot be published.
    """
    repo_id = config.push_to_hub
    if repo_id is None:
        raise ValueError("push_to_hub must be a Hub repository 'user/name' to publish to. Got None.")
    validate_repo_id(repo_id)
    contents, revision = contents_of(config.folder), config.revision or DEFAULT_REVISION
    given = GivenInfo(license=config.license, attribution=config.attribution)
    return Push(
        contents=contents,
        repo_id=repo_id,
        files=files_to_upload(contents, repo_id, given, revision),
        message=config.commit_message or f"{contents.kind.capitalize()} by decoct",
        revision=revision,
        private=config.private,
        overwrite=config.overwrite,
    )


def require_publishing(config: PublishingConfig) -> None:
    """Raises, before a long run whose result is to be published, what would keep it from that at its end."""
    if config.push_to_hub is not None:
        validate_repo_id(config.push_to_hub)
        require_token(config.push_to_hub)


def publish_run(config: PublishingConfig, folder: str) -> str:
    """Publishes the folder of a finished stage as the stage's configuration says; returns the address."""
    given = fields_that_matter_for(PublishingConfig, "publishing")
    return publish(PublishConfig(folder=folder, **{name: getattr(config, name) for name in given}))


def files_to_upload(contents: Contents, location: str, given: GivenInfo, revision: str) -> list[CommitOperationAdd]:
    """All files with their names in the repository `location`, hashed, card and manifest among them.

    Raises:
        ValueError: If a file is not what the manifest says.
    """
    files = [CommitOperationAdd(name, published(name, path)) for name, path in contents.files.items()]
    folder = contents.folder
    if contents.kind != "dataset":
        card = model_card(contents.kind, folder, location, given, revision)
        files.append(CommitOperationAdd(CARD, card.encode()))
        results = eval_results(folder) if contents.kind == "teacher" else None
        return [*files, *([CommitOperationAdd(EVAL_RESULTS, results.encode())] if results else [])]
    recorded = read_object(folder / MANIFEST)
    check_hashes(contents, recorded["files"], files)
    records = read_results(folder / "results.json")
    manifest, measured = without_local_paths([recorded, records])
    card = dataset_card(manifest, location, measured, given, folder=folder, revision=revision)
    card_file = CommitOperationAdd(CARD, card.encode())
    described = {**manifest, "files": {**manifest["files"], CARD: card_file.upload_info.sha256.hex()}}
    files += [card_file, CommitOperationAdd(MANIFEST, json_text(described).encode())]
    if REPORT in contents.files and [manifest, measured] != [recorded, records]:
        report = render(folder, manifest, measured, kept_sources(contents.files[REPORT]))
        files = [file for file in files if file.path_in_repo != REPORT]
        files.append(CommitOperationAdd(REPORT, report.encode()))
    return files


def published(name: str, path: Path) -> Path | bytes:
    """The file itself or, of JSON that shows paths of this machine, its content without them.

    Raises:
        ValueError: If it should be JSON and is not.
    """
    if not name.endswith(".json"):
        return path
    content = read_json(path)
    shown = without_local_paths(content)
    return path if shown == content else json_text(shown).encode()


def check_hashes(contents: Contents, recorded: dict[str, Any], files: list[CommitOperationAdd]) -> None:
    """Raises ValueError for a file that is not the one that the run wrote."""
    for file in files:
        name = file.path_in_repo
        if name in recorded and file.upload_info.sha256.hex() != recorded[name]:
            raise ValueError(
                f"{contents.folder / name} must be the file that {MANIFEST} names. Its sha256 differs, so it was "
                "changed or damaged since: restore it, or distil again."
            )


def format_push(wanted: Push) -> str:
    """What a dry run shows: the card, then target, files and bytes."""
    contents = wanted.contents
    files = sorted(wanted.files, key=lambda file: file.path_in_repo)
    total = sum(file.upload_info.size for file in files)
    return "\n".join(
        [
            wanted.content(CARD).decode(),
            f"{contents.folder} ({wanted.kind}) would go to the Hub {repo_type_of(wanted.kind)} repository "
            f"{wanted.repo_id}, branch {wanted.revision}{', private' if wanted.private else ''}:",
            *(f"{file.upload_info.size:>15,}  {file.path_in_repo}" for file in files),
            f"{total:>15,}  bytes in {len(files)} files",
            f"Left out: {', '.join(contents.left_out) or 'nothing'}",
        ]
    )
