"""What accuracy tells a teacher from one that guesses."""

from __future__ import annotations

__all__ = ["expected_accuracy", "guesswork", "weakness"]

CAUSES = (
    "Usual causes: class names in another order than those it was trained on (see --label_map), other preprocessing "
    "than it was trained with (image_mean, image_std, channel order, image size), another dataset, or a "
    "training on few images."
)


def expected_accuracy(classes: int) -> float:
    """Least accuracy of a teacher: twice chance or, for two or three classes, half way from chance to 1."""
    return min(2 / classes, (1 + 1 / classes) / 2)


def weakness(found: float, classes: int, whose: str, what: str) -> str | None:
    """What to say of an accuracy below `expected_accuracy`; None for others.

    Args:
        whose: The teacher, as the subject of the sentence.
        what: What it recognises that share of.
    """
    expected = expected_accuracy(classes)
    if classes < 2 or found >= expected:
        return None
    return (
        f"{whose} recognises {found:.1%} of {what}, where chance is {1 / classes:.1%} and at least {expected:.1%} is "
        f"expected. {CAUSES}"
    )


def guesswork(found: float, classes: int, whose: str, what: str) -> str | None:
    """What to say of a network that was trained here and is less than a quarter better than chance; None for others.

    Args:
        whose: The network, as the subject of the sentence.
        what: What it recognises that share of.
    """
    if classes < 2 or found >= 1.25 / classes:
        return None
    return (
        f"{whose} recognises {found:.1%} of {what}, where chance is {1 / classes:.1%}: what was learned does not carry "
        "over to them. Look at the images' labels, and train longer, on more images or with another model."
    )
