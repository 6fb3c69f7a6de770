"""Publishing on the Hub, and checking what was published."""

from __future__ import annotations

from dataclasses import dataclass

from decoct.config.licences import LICENCES
from decoct.config.options import check_choices, option, require

__all__ = ["PublishConfig", "PublishingConfig", "VerifyConfig"]


@dataclass(kw_only=True)
class PublishingConfig:
    """Where results go on the Hub; nothing is uploaded unless `push_to_hub` names a repository."""

    push_to_hub: str | None = option(
        None, "Hub repository `user/name` to upload the result to. Default: no upload.", matters="publishing"
    )
    private: bool = option(False, "Create the repository as a private one.", matters="publishing")
    revision: str | None = option(None, "Branch of the repository to upload to. Default: `main`.", matters="publishing")
    commit_message: str | None = option(
        None, "Message of the final commit. Default: what was uploaded.", matters="publishing"
    )

    def check_publishing(self) -> None:
        """Raises ValueError for a repository that is not `user/name`."""
        valid = self.push_to_hub is None or (
            self.push_to_hub.count("/") == 1 and all(part.strip() for part in self.push_to_hub.split("/"))
        )
        require(valid, "push_to_hub", "a Hub repository 'user/name'", self.push_to_hub)


@dataclass(kw_only=True)
class PublishConfig(PublishingConfig):
    """Uploading a run folder: a distilled dataset, teacher, estimator, prior or IGDS pipeline."""

    folder: str = option("runs/distilled", "Run folder to publish.", group="publishing")
    license: str | None = option(
        None,
        "Licence by its Hub identifier (`mit`, `cc-by-4.0`, or `other`): of the source, for a distilled dataset; of "
        "the model itself, for a model. Default: what the source says of itself; none for a model.",
        group="publishing",
    )
    attribution: str | None = option(
        None,
        "Who made the source dataset, as a sentence or citation for the card. Default: what the source says.",
        group="publishing",
    )
    overwrite: bool = option(
        False,
        "Publish into a repository that holds something else: files of the same name are replaced, data or weights "
        "that would be read with the new ones are deleted, other files stay.",
        matters="command",
    )
    dry_run: bool = option(False, "Print the card and what would be uploaded, then stop.", matters="command")

    def __post_init__(self) -> None:
        check_choices(self)
        self.check_publishing()
        known = self.license is None or self.license.strip().lower() in LICENCES
        require(known, "license", f"one of {list(LICENCES)} ('other' for any that is not here)", self.license)


@dataclass(kw_only=True)
class VerifyConfig:
    """Checking a distilled dataset: hashes, schema, labels, logits, images."""

    source: str = option("runs/distilled", "Run folder, or Hub id of a published distilled dataset.", group="data")
    revision: str | None = option(None, "Branch, tag or commit of a Hub repository. Default: `main`.", group="data")
    teacher: list[str] = option(
        [],
        "Folder or Hub id of the teacher that labelled, which is asked for a sample of the stored logits again; all of "
        "them where several did. Default: no logits are compared.",
        group="data",
    )
    sample: int = option(
        64,
        "Stored logits of each kind and IPC that a teacher is asked for again, the same ones every time.",
        group="data",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.sample >= 1, "sample", "at least 1", self.sample)
