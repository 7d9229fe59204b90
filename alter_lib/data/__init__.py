"""Data: the embedded picture sets, sources of one's own, and the batches that training reads."""

from . import emoji, fashion

SOURCES = {"emoji": emoji, "fashion": fashion}  # data.source: those that are embedded
IMAGENET_EXAMPLES = (207, 360, 387, 974, 88, 979, 417, 279)  # labels that the DiT paper's figures show


def examples(source: str, count: int) -> tuple[list[str] | list[int], list[str]]:
    """`count` prompts to show (captions or class labels), and their names."""
    if source == "fashion":
        labels = [i % len(fashion.CLASSES) for i in range(count)]
        return labels, [fashion.CLASSES[label] for label in labels]
    if source == "imagenet":
        labels = list(IMAGENET_EXAMPLES[:count])
        return labels, [f"class {label}" for label in labels]
    return list(emoji.EXAMPLES[:count]), list(emoji.EXAMPLES[:count])
