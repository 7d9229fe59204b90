"""Data: the embedded picture sets and the batches that training reads."""

from . import emoji, fashion

SOURCES = {"emoji": emoji, "fashion": fashion}  # data.source


def examples(source: str, count: int) -> tuple[list[str] | list[int], list[str]]:
    """`count` prompts to show (captions or class labels), and their names."""
    if source == "fashion":
        labels = [i % len(fashion.CLASSES) for i in range(count)]
        return labels, [fashion.CLASSES[label] for label in labels]
    return list(emoji.EXAMPLES[:count]), list(emoji.EXAMPLES[:count])
