"""YAML as params files have it: numbers like 1e-5, no key twice, and one line for what is wrong with a file."""

import re
from pathlib import Path
from typing import Any

import yaml

from .errors import ParamsError


class Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-5 as a number (YAML 1.1 reads text) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.MarkedYAMLError(problem=f"{twice[0]} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read(path: Path, label: str) -> Any:
    """What a YAML file holds; label: what a fault calls the file. Raises ParamsError."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)  # a SafeLoader: builds plain values only
    except Exception as error:  # yaml's constructors raise whatever Python makes of a value
        raise ParamsError([f"{label}: {reason(error)}"]) from None


def reason(error: Exception) -> str:
    """What is wrong with YAML, or with the file that it is in, in words."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, OSError):
        return error.strerror
    return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"not YAML: {' '.join(str(error).split())}"
