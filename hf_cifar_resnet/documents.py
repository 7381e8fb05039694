"""Reading JSON and YAML files of unknown origin safely: limited size, plain values only, errors of one line."""

import json
import re
from collections import Counter
from pathlib import Path

from .errors import one_line

LARGEST_JSON, LARGEST_YAML = 2**24, 2**20  # bytes
_YAML_BOOL = "tag:yaml.org,2002:bool"


def read_json(path):
    """Return the object in a JSON file as a dict. Raises `OSError`, or `ValueError` in one line that names no file."""
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("it is not a regular file")  # reading from a pipe may never end
    return _read_mapping(path, LARGEST_JSON, json.loads, "JSON", "a JSON object: {...}")


def read_yaml(path):
    """
    Return the mapping in a YAML file as a dict. Raises as [`read_json`] does. Unlike in `yaml.safe_load`, a repeated
    key is an error, and only `true` and `false` are booleans: `no` is a string.
    """
    return _read_mapping(path, LARGEST_YAML, _parse_yaml, "YAML", "lines of the form argument: value")


def _read_mapping(path, largest, parse, language, form):
    with open(path, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest:,} bytes")
    try:
        content = parse(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # PyYAML's constructors raise more than YAMLError
        raise ValueError(f"it is not valid {language}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"it must hold {form}")
    return content


def _parse_yaml(text):
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag != _YAML_BOOL]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_mapping_node(self, anchor):
            node = super().compose_mapping_node(anchor)
            counts = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
            if repeated := [key for key, count in counts.items() if count > 1]:
                raise ValueError(f"{repeated[0]} is given twice")
            return node

    Loader.add_implicit_resolver(_YAML_BOOL, re.compile("^(true|false)$", re.IGNORECASE), list("tTfF"))
    return yaml.load(text, Loader)
