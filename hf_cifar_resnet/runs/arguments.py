"""The arguments of a run as they were given."""

import copy
import dataclasses
import json
import os
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from ..data.arguments import FORMER_POLICIES

# What an argument can be: a value that JSON has, except null, which stands for an argument that is not given.
Value: TypeAlias = bool | int | float | str | list["Value"] | dict[str, "Value"]
Dataclass = TypeVar("Dataclass")

GIVEN = "given"  # the key of the arguments in `run.json`
SECRETS = ("hub_token",)  # which no file and no command line that we start has
# Arguments, and those of a recipe that they replace, since both describe the same thing.
REPLACED: dict[str, tuple[str, ...]] = {
    "depth": ("block", "stage_depths", "stage_widths", "model_name_or_path"),
    "block": ("depth", "model_name_or_path"),
    "stage_depths": ("depth", "model_name_or_path"),
    "model_name_or_path": ("depth", "stem", "block", "stage_depths", "stage_widths", "zero_init_residual"),
    "global_batch_size": ("per_device_train_batch_size",),
}
# Arguments, and those of a recipe that belong to its value and to no other.
DEPENDENT = {
    "lr_scheduler_type": "lr_scheduler_kwargs",
    "optim": "optim_args",
    "eval_strategy": "eval_steps",
    "save_strategy": "save_steps",
    "logging_strategy": "logging_steps",
}


@dataclass(frozen=True)
class RunArguments:
    """
    What was given for a run: by a recipe, on the command line or from Python, and nothing else. No default is filled
    in, and nothing depends on the machine, so that it means the same on every one. A leading `~` in a path is kept; it
    is expanded where the path is used.

    Two equal ones are the same run. The command line makes equal values equal: it parses `1e-3` and `0.001` to one
    float. The order in which arguments were given does not matter.

    Args:
        given: the values by the names of the arguments, without those that are None. They are not to be changed;
            [`~RunArguments.replace`] makes another one.
    """

    given: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {name: copy.deepcopy(value) for name, value in self.given.items() if value is not None}
        object.__setattr__(self, "given", types.MappingProxyType(given))

    def __hash__(self) -> int:
        # The values are left out, since equal ones, such as 1 and 1.0, may differ as texts.
        return hash(frozenset(self.given))

    def __reduce__(self) -> tuple[type["RunArguments"], tuple[dict[str, Value]]]:
        return RunArguments, (dict(self.given),)  # a mapping proxy cannot be pickled

    def __contains__(self, name: object) -> bool:
        return name in self.given

    def __iter__(self) -> Iterator[str]:
        return iter(self.given)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of an argument, or `default` if it is not given."""
        return self.given.get(name, default)

    def replace(self, **changes: Value | None) -> "RunArguments":
        """Return these arguments with other values; None removes an argument. Nothing else changes."""
        values = {**self.given, **changes}
        return RunArguments({name: value for name, value in values.items() if value is not None})

    def over(self, recipe: "RunArguments") -> "RunArguments":
        """
        Return these arguments on top of a recipe's. A recipe's argument goes where another one is given for the same
        thing (`depth` instead of `block` and `stage_depths`), or where it belongs to a schedule or an optimizer that
        another one replaces.
        """
        replaced = {name for argument in self for name in REPLACED.get(argument, ())}
        for argument, dependent in DEPENDENT.items():
            if argument in self and self.get(argument) != recipe.get(argument):
                replaced.add(dependent)
        kept = {name: value for name, value in recipe.given.items() if name not in replaced}
        return RunArguments({**kept, **self.given})

    def build(self, kind: type[Dataclass]) -> Dataclass:
        """
        Return a dataclass of arguments with the values that are given, and its own defaults for all others. Raises
        `ValueError` for a value of another type than the field's, and what the dataclass itself raises.
        """
        annotations = get_type_hints(kind)
        names = [each.name for each in dataclasses.fields(kind) if each.init and each.name in self]  # type: ignore[arg-type]
        return kind(**{name: check_type(name, self.given[name], annotations[name]) for name in names})

    def to_record(self) -> dict[str, Value]:
        """Return what `run.json` has as `given`: all but the secrets."""
        return {name: copy.deepcopy(value) for name, value in self.given.items() if name not in SECRETS}

    def to_command_line(self) -> list[str]:
        """
        Return these arguments as flags of `train`, for a shell or a job of a cluster: all but the secrets, which other
        users of the machine would see there.
        """
        argv = []
        for name, value in self.to_record().items():
            texts = [_text(part) for part in value] if isinstance(value, list) else [_text(value)]
            if len(texts) == 1 and texts[0].startswith("-"):
                argv.append(f"--{name}={texts[0]}")
            else:
                argv += [f"--{name}", *texts]
        return argv


def comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return values of arguments in the one spelling in which those that mean the same are equal: present names of
    policies, metrics without `eval_`, JSON objects that were given as a text, and paths without `~`.
    """
    return {name: _spell(name, value) for name, value in values.items()}


def _spell(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name == "augmentation":
        value = FORMER_POLICIES.get(value, value)
    if name == "metric_for_best_model":
        return value.removeprefix("eval_")
    if value.lstrip().startswith("{"):
        with suppress(ValueError):  # of a damaged file, which equals itself alone
            return json.loads(value)
    return os.path.expanduser(value)


def check_type(name: str, value: Any, annotation: Any) -> Any:
    """Return the value of an argument as its annotation asks: an int as a float. Raises `ValueError` for others."""
    for allowed in _members(annotation):
        if allowed is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if _is(value, allowed):
            return copy.deepcopy(value)
    expected = " or ".join(
        getattr(each, "__name__", str(each)) for each in _members(annotation) if each is not type(None)
    )
    raise ValueError(f"{name} must be {expected}, got {value!r}")


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, and any other type alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _is(value: Any, annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    if origin is Any:
        return True
    if origin is Literal:
        return value in get_args(annotation)
    if origin is list:
        [member] = get_args(annotation) or (Any,)
        # A list may hold whole numbers where floats are asked for.
        return isinstance(value, list) and all(
            _is(part, member) or (member is float and _is(part, int)) for part in value
        )
    if isinstance(origin, type) and issubclass(origin, Enum):
        return value in [member.value for member in origin]
    if isinstance(value, bool):
        return origin is bool
    return isinstance(origin, type) and isinstance(value, origin)


def _text(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)
