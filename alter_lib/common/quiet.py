"""Notebooks show results: loading bars and hints of diffusers and transformers off, errors and our own progress on."""

import diffusers.utils.logging as diffusers_logging
import transformers.utils.logging as transformers_logging


def quiet() -> None:
    """For this process, until someone turns them on again."""
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
