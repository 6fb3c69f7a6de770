"""The teachers behind a distilled set: those that labelled it, and the one that `online` labels come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decoct.data.spec import ImageSpec
from decoct.models.classifier import Classifier
from decoct.models.ensemble import Ensemble
from decoct.models.label_map import teacher_for
from decoct.models.zoo import load_classifier

__all__ = ["STORED", "Teachers"]

STORED = ("tiles", "views", "mixed")  # label modes whose logits lie in the set


class Teachers:
    """Teachers of one distilled set; each network is loaded once, on first use.

    Args:
        distilled: The set's folder or Hub id.
        manifest: The set's manifest.
        spec: The set's images and label names.
        asked: Folder or Hub id of a network to ask for labels in place of those in the manifest.
        label_map: A teacher's name of a class of the set, where it is another one. Default: the manifest's.
    """

    def __init__(
        self,
        distilled: str,
        manifest: dict[str, Any],
        spec: ImageSpec,
        asked: str | None = None,
        label_map: Mapping[str, str] | None = None,
    ) -> None:
        self.distilled, self.manifest, self.spec, self.asked = distilled, manifest, spec, asked
        self.label_map = label_map or manifest.get("teacher_label_names")
        self._loaded: dict[str, Classifier | str] = {}
        self._fingerprints: dict[str, str] = {}

    def record(self, ipc: int) -> dict[str, Any]:
        """Name and fingerprint of the network that labelled an IPC's images, as far as the manifest has them."""
        return self.manifest.get("label_teachers", {}).get(str(ipc)) or self.manifest.get("teacher") or {}

    def labeller(self, ipc: int) -> Classifier | str:
        """The network that labelled an IPC's images, or why it cannot be had."""
        return self._stored(self.record(ipc))

    def converged(self) -> Classifier | str:
        """The teacher that the set was distilled with, whichever network labelled it, or why it cannot be had."""
        return self._stored(self.manifest.get("teacher") or {})

    def current(self, ipc: int) -> Classifier | str:
        """The network that is asked for labels now: `--teacher`, else the labeller; or why it cannot be had."""
        return self.labeller(ipc) if self.asked is None else self._load(self.asked)

    def online(self, ipc: int) -> Classifier:
        """`current`; raises ValueError with the remedy if it cannot be had."""
        teacher = self.current(ipc)
        if isinstance(teacher, str):
            raise ValueError(
                f"teacher must be within reach (labels 'online' need it): {teacher}. "
                "Name a folder or Hub id with --teacher, or use the stored labels: --labels mixed."
            )
        return teacher

    def behind(self, ipc: int, labels: str) -> Classifier | str:
        """The network that a label mode is stated with, or why it cannot be had.

        Stored labels are the labeller's, whatever network is asked now.
        """
        return self.labeller(ipc) if labels in STORED else self.current(ipc)

    def name(self, ipc: int, labels: str) -> str | None:
        """Name of `behind`, also where it cannot be had."""
        named = self.record(ipc).get("name")
        return named if labels in STORED else self.asked or named

    def fingerprint(self, teacher: Classifier) -> str:
        """`teacher.fingerprint()`, computed once."""
        if teacher.name not in self._fingerprints:
            self._fingerprints[teacher.name] = teacher.fingerprint()
        return self._fingerprints[teacher.name]

    def _stored(self, record: dict[str, Any]) -> Classifier | str:
        """A network of the manifest: where the manifest says, or else `--teacher` if it has the same weights."""
        if record.get("name") is None:
            return "the manifest names no teacher"
        if record.get("members"):
            return self._ensemble(record["members"])
        reasons = []
        for name in filter(None, (record["name"], self.asked)):
            teacher = self._load(name)
            if isinstance(teacher, Classifier) and self.fingerprint(teacher) == record.get("fingerprint"):
                return teacher
            differ = f"the weights in {name} are not those that labelled the distilled set"
            reasons.append(teacher if isinstance(teacher, str) else differ)
        return reasons[0]

    def _ensemble(self, records: list[dict[str, Any]]) -> Classifier | str:
        """The mean of several networks of the manifest, or why one of them cannot be had."""
        members = [self._stored(each) for each in records]
        reason = next((each for each in members if isinstance(each, str)), None)
        return reason or Ensemble([each for each in members if isinstance(each, Classifier)])

    def _load(self, name: str) -> Classifier | str:
        if name not in self._loaded:
            try:
                teacher = load_classifier(name)
            except (OSError, ValueError) as error:
                self._loaded[name] = str(error).removesuffix(".")  # it becomes part of a sentence
            else:
                names = self.spec.label_names
                label_map = None if teacher.spec.label_names == names else self.label_map
                self._loaded[name] = teacher_for(teacher, names, self.distilled, label_map)
        return self._loaded[name]
