"""Which errors mean that memory ran out, on any device."""

import torch

WORDS = ("can't allocate memory", "not enough memory", "out of memory")  # of torch's allocator on a CPU


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def reason(error: BaseException) -> str:
    """Its first line."""
    return (str(error).splitlines() or ["MemoryError"])[0]
