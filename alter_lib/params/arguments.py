"""`--params` and `--set`, the same in every command of the project."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from .errors import ParamsError
from .loading import Params, load_params
from .paths import DEFAULT
from .reading import Loader, reason


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """`["training.steps=100"]` -> `{"training.steps": 100}`; values are YAML. Raises ParamsError."""
    result, bad = {}, []
    for item in items:
        dotted, sign, text = item.partition("=")
        try:
            result[dotted.strip()] = yaml.load(text, Loader)
        except Exception as error:  # as in a file
            bad.append(f"override: {dotted}: {reason(error)}")
        if not sign:
            bad.append(f"override: {item}: is not of the form section.key=value")
    if bad:
        raise ParamsError(bad)
    return result


def add_params_arguments(parser: argparse.ArgumentParser) -> None:
    """`--params FILE` and `--set section.key=value ...`, the same in every command of the project."""
    parser.add_argument("--params", default=str(DEFAULT), metavar="FILE", help="default: params/tiny_sd.yaml")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override values")


def params_from_arguments(arguments: argparse.Namespace) -> Params:
    """Params of a parsed command line; a path that exists below the current folder is taken from there."""
    here = Path(arguments.params).absolute()
    return load_params(here if here.is_file() else arguments.params, parse_overrides(arguments.set))
