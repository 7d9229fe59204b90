"""The two kinds of errors that a user meets as one line instead of a traceback, and their exit codes."""


class BadInput(ValueError):
    """What was given is wrong or not there: params, a plan, weights, data. One line a fault; exit code 2."""


class Failed(RuntimeError):
    """Work that stopped although its input is sound. One line; exit code 1."""
