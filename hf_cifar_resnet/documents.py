"""Reading JSON and YAML that somebody else wrote: of bounded size, plain values alone, and one kind of error."""

import json
from collections import Counter
from pathlib import Path

LARGEST_JSON, LARGEST_YAML = 2**24, 2**20  # bytes
# Of a YAML document with its aliases written out: a few lines of them can stand for billions.
MOST_YAML_NODES = 10**5
_YAML_BOOL = "tag:yaml.org,2002:bool"


def read_json(path):
    """
    The object in a JSON file, a dict.

    Raises:
        ValueError: if it holds none, in one line that does not name the file.
        OSError: if it cannot be read.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("it is not a regular file")  # a pipe may never end
    text = _read(path, LARGEST_JSON)
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("it must hold a JSON object: {...}")
    return content


def read_yaml(path):
    """
    The mapping in a YAML file, a dict. Raises as [`read_json`] does. No tag makes anything but plain values, no key is
    there twice, and of the words that are yes or no in YAML 1.1, `true` and `false` alone are: `no` is the text.
    """
    import yaml

    text = _read(path, LARGEST_YAML)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and _size(node, {}) > MOST_YAML_NODES:
            raise ValueError("it stands for too many values")
        for part in _nodes(node):
            if isinstance(part, yaml.MappingNode):
                _check_keys(part)
            elif part.tag == _YAML_BOOL and part.value.lower() not in ("true", "false"):
                part.tag = loader.DEFAULT_SCALAR_TAG
        content = None if node is None else loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # of YAML's own, and of what its constructors call
        raise ValueError(f"it is not valid YAML: {' '.join(str(error).split()) or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ValueError("it must hold lines of the form argument: value")
    return content


def _read(path, largest):
    with open(Path(path), "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text: {error.reason} at byte {error.start}") from None


def _parts(node):
    """The nodes right below: of a mapping, its keys and values."""
    parts = node.value if isinstance(node.value, list) else []
    return [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]


def _size(node, sizes):
    """How many nodes there are with all aliases written out."""
    if id(node) not in sizes:
        sizes[id(node)] = MOST_YAML_NODES  # found again below itself, it would have no end
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in _parts(node))
    return sizes[id(node)]


def _nodes(root):
    """All nodes of a document, each once."""
    found, waiting = {}, [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += _parts(node)
    return found.values()


def _check_keys(mapping):
    counts = Counter(key.value for key, _ in mapping.value if isinstance(key.value, str))
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
