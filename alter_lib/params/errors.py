"""One line for each fault in a params file: where it is, what was found, what is allowed."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from ..common.faults import BadInput


class ParamsError(BadInput):
    """Bad params; `faults` holds one line a fault, `str(error)` all of them.

    A line reads `params/x.yaml: training.steps: 'abc' is not an integer >= 1`.
    """

    def __init__(self, faults: Sequence[str]):
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


def faults(errors: Sequence[Mapping[str, Any]], data: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, str]:
    """{"section.key": message} from pydantic's `errors` on `data`, allowed values read from the JSON `schema`."""
    sections = {name: schema["$defs"][spec["$ref"].split("/")[-1]] for name, spec in schema["properties"].items()}
    found: dict[str, str] = {}
    for error in errors:
        section, *rest = error["loc"]
        key = f"{section}.{rest[0]}" if rest else str(section)
        if error["type"] == "value_error" and not rest:  # a check across keys names its key itself
            for line in str(error["ctx"]["error"]).splitlines():
                name, _, message = line.partition(": ")
                found[f"{section}.{name}"] = message
        elif error["type"] == "extra_forbidden":
            found[key] = _unknown(str(section), str(rest[0]) if rest else None, sections)
        elif error["type"] == "missing" and len(rest) < 2:
            takes = allowed(sections[section]["properties"][rest[0]]) if rest else _keys(sections[section])
            found[key] = f"missing; it takes {takes}"
        elif rest:  # a union reports each of its branches: the whole value and all that is allowed say more
            value = shown(data[section][rest[0]])
            found[key] = f"{value} is not {allowed(sections[section]['properties'][rest[0]])}"
        else:
            found[key] = f"{shown(data[section])} is not a mapping of keys to values"
    return found


_shorter = reprlib.Repr()
_shorter.maxstring = _shorter.maxother = _shorter.maxlong = 200
_shorter.maxdict = _shorter.maxlist = 20


def shown(value: Any) -> str:
    """`repr`, cut off: a few lines of YAML with anchors can be gigabytes."""
    return _shorter.repr(value)


def _keys(spec: Mapping[str, Any]) -> str:
    return "the keys " + ", ".join(spec["required"])


def _unknown(section: str, key: str | None, sections: Mapping[str, Any]) -> str:
    """What an unknown section or key was probably meant to be."""
    if key is None:
        return "unknown section; " + _nearest(section, list(sections))
    homes = [name for name, spec in sections.items() if key in spec["properties"]]
    if homes:  # the right key in the wrong section
        return "unknown key; did you mean " + " or ".join(f"{home}.{key}" for home in homes) + "?"
    return "unknown key; " + _nearest(key, list(sections[section]["properties"]))


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else "known: " + ", ".join(known)


def allowed(spec: Mapping[str, Any]) -> str:
    """The values that a JSON schema node allows, in words: "an integer >= 1", "one of a | b", "a number or null"."""
    if "description" in spec:
        return spec["description"]
    if "anyOf" in spec:
        return " or ".join(allowed(branch) for branch in spec["anyOf"])
    if "enum" in spec or "const" in spec:
        values = spec.get("enum", [spec.get("const")])
        return values[0] if len(values) == 1 else "one of " + " | ".join(values)
    if spec["type"] == "array":
        items = spec["prefixItems"] if "prefixItems" in spec else [spec["items"]]
        length = f"a list of {len(items)}" if "prefixItems" in spec else f"a list of {spec.get('minItems', 0)} or more"
        return f"{length}, each {allowed(items[0])}"
    nouns = {"integer": "an integer", "number": "a number", "string": "text", "boolean": "true or false"}
    return nouns.get(spec["type"], "null") + _bounds(spec)


def _bounds(spec: Mapping[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    parts = [f"{sign} {spec[name]:.10g}" for name, sign in signs.items() if name in spec]
    return "".join(f" {part}" if i == 0 else f" and {part}" for i, part in enumerate(parts))
