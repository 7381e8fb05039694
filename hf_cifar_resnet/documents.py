"""Reading JSON and YAML files of unknown origin safely: limited size, plain values only, errors of one line."""

import json
import os

from .errors import one_line

LARGEST_JSON, LARGEST_YAML = 2**24, 2**20  # bytes


def read_json(path, largest=LARGEST_JSON):
    """Return the object in a JSON file as a dict. Raises `OSError`, or `ValueError` in one line that names no file."""
    return _read_mapping(path, largest, json.loads, "JSON", "a JSON object: {...}")


def read_yaml(path):
    """
    Return the mapping in a YAML 1.2 file as a dict, in which 1e-3 is a number and `no` is a string, unlike in the YAML
    1.1 of PyYAML. Raises as [`read_json`] does, also for a repeated key.
    """
    return _read_mapping(path, LARGEST_YAML, parse_yaml, "YAML", "lines of the form argument: value")


def _read_mapping(path, largest, parse, language, form):
    if os.path.exists(path) and not os.path.isfile(path):
        # Reading from a pipe may never end, and a recipe is read twice.
        raise ValueError("it is not a regular file, but a folder, a pipe or a device")
    with open(path, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest:,} bytes")
    try:
        content = parse(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ImportError:  # says itself what is missing
        raise
    except Exception as error:  # constructors of YAML raise more than YAMLError
        problem = getattr(error, "problem", None) or one_line(error)
        raise ValueError(f"it is not valid {language}: {problem}") from error
    if not isinstance(content, dict):
        raise ValueError(f"it must hold {form}")
    return content


def parse_yaml(text):
    """Return what a text or a stream of YAML holds."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)
