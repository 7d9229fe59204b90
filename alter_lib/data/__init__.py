"""Data: the embedded picture sets and the batches that training reads."""

from . import emoji, fashion

SOURCES = {"emoji": emoji, "fashion": fashion}  # data.source
