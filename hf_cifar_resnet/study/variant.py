"""The variants that a study compares: schedules, or named sets of arguments, varied and with parts left out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import schedules
from ..documents import read_yaml
from ..errors import reason_of
from ..runs.arguments import RunArguments, Value
from ..training.optimizers import SCHEDULE_FREE

FILES = Path(__file__).parent / "variants"
LABEL = "label"  # in a file of variants, beside the arguments
DEFAULT_WARMUP = 0.05  # the share of all steps, for every variant of a file that does not say otherwise
# The arguments that the study itself sets for each run, and what to do instead of giving them.
RESERVED = {
    "lr_scheduler_type": "use --schedules, or --variants",
    "seed": "use --seeds",
    "output_dir": "each run has a folder in that of the study",
    "resume_from_checkpoint": "a study that is started again resumes its unfinished runs",
    "run_name": "each run has the name of its folder",
    "push_to_hub": "push the run that you choose when it has ended, with hf-cifar-resnet push",
    "hub_token": "its runs are not pushed, and read HF_TOKEN where they need a token",
    "hub_model_id": "push the run that you choose when it has ended, with hf-cifar-resnet push",
}
SCHEDULE = "lr_scheduler_type"

# Parses the text of an argument's value, as on the command line; the two parameters are the argument's name and a text.
Parse = Callable[[str, str], Value]


@dataclass(frozen=True)
class Variant:
    """
    What a study compares.

    Attributes:
        name: of a schedule or in a file of variants; the folders of its runs begin with it.
        arguments: what sets it apart.
        varied: the values of varied arguments, as they were typed.
        without: the part of the recipe that is left out, in an ablation.
        shares_warmup: see [`NamedArguments`].
    """

    name: str
    arguments: RunArguments = field(default_factory=RunArguments)
    varied: Mapping[str, str] = field(default_factory=dict)
    without: str | None = None
    shares_warmup: bool = False


@dataclass(frozen=True)
class NamedArguments:
    """
    A variant in a file, or a schedule.

    Attributes:
        label: its name for pictures.
        shares_warmup: whether it has the warmup of the study where its arguments say nothing else. The name of a
            schedule says whether it warms up.
    """

    name: str
    label: str
    arguments: RunArguments
    shares_warmup: bool = False


@dataclass(frozen=True)
class CommonArguments:
    """
    What all runs of a study share.

    Attributes:
        typed: on the command line of the study, which wins over the recipe.
        recipe: of the file that `config` names.
    """

    typed: RunArguments
    recipe: RunArguments = field(default_factory=RunArguments)

    @property
    def merged(self) -> RunArguments:
        return self.typed.over(self.recipe)

    def with_arguments(self, own: RunArguments, shares_warmup: bool) -> RunArguments:
        """
        Return the arguments of a run with some of its own. With `shares_warmup` it has the warmup of the study, if its
        schedule takes one and its own arguments do not say otherwise.
        """
        arguments = self.typed.replace(**own.given).over(self.recipe)
        if "warmup_steps" in own:
            return arguments
        spec = schedules.get(arguments.get(SCHEDULE, "cosine"))
        if spec.own_warmup or (shares_warmup and not spec.takes_warmup):
            return arguments.replace(warmup_steps=None)
        return arguments.replace(warmup_steps=arguments.get("warmup_steps", DEFAULT_WARMUP if shares_warmup else None))


def check_not_reserved(names: Iterable[str]) -> None:
    """Raise `ValueError` for an argument that the study sets itself."""
    for name in names:
        if name in RESERVED:
            raise ValueError(f"{name} is decided by the study: {RESERVED[name]}")


def schedule_variant(name: str) -> NamedArguments:
    """Return the variant of a schedule, or of a schedule-free optimizer. Raises `ValueError` if there is none."""
    if name in SCHEDULE_FREE:
        optimizer = {"adamw": "AdamW", "sgd": "SGD", "radam": "RAdam"}
        kind = name.removeprefix("schedule_free_")
        arguments = RunArguments({SCHEDULE: "constant_with_warmup", "optim": name})
        return NamedArguments(name, f"schedule-free {optimizer.get(kind, kind)}", arguments)
    spec = schedules.get(name)
    return NamedArguments(name, spec.label, RunArguments({SCHEDULE: name}))


def file_names() -> list[str]:
    """Return the names of the files of variants that come with the package."""
    return sorted(file.stem for file in FILES.glob("*.yaml"))


def read_variants(
    name: str, chosen: Sequence[str], check: Callable[[str, Mapping[str, Any]], RunArguments]
) -> list[NamedArguments]:
    """
    Return the variants in a YAML file, or in one of [`file_names`], that are `chosen`, or all if none is. Raises
    `ValueError` for what is wrong in it.

    Args:
        check: returns the arguments of a variant, after its name, as those of a recipe are checked.
    """
    file = FILES / f"{name}.yaml" if name in file_names() else Path(name)
    if not file.exists():
        raise ValueError(f"variants {name}: there is no such file; with the package come {', '.join(file_names())}")
    try:
        content = read_yaml(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"variants {name} cannot be read: {reason_of(error)}") from error
    found = {}
    for variant, arguments in content.items():
        if not re.fullmatch(r"\w+", str(variant)):
            raise ValueError(f"variants {name}: a name must be one word of letters, digits and _, got {variant!r}")
        if not isinstance(arguments, Mapping):
            raise ValueError(f"variants {name}: {variant} must have lines of the form argument: value")
        own = {str(key).replace("-", "_"): value for key, value in arguments.items()}
        label = own.pop(LABEL, str(variant).replace("_", " "))
        check_not_reserved(set(own) - {SCHEDULE})
        found[str(variant)] = NamedArguments(str(variant), str(label), check(str(variant), own), shares_warmup=True)
    if not found:
        raise ValueError(f"variants {name}: there is none in it")
    if unknown := [each for each in chosen if each not in found]:
        raise ValueError(f"variants {name} has no {unknown[0]}: choose from {', '.join(found)}")
    return [found[each] for each in chosen] if chosen else list(found.values())


def plan_variants(
    named: Sequence[NamedArguments],
    vary: Mapping[str, Mapping[str, Value]],
    without: Mapping[str, RunArguments],
) -> list[Variant]:
    """
    Return every named variant with every combination of varied values, for the full recipe and each ablation.

    Args:
        vary: {argument: {value as it was typed: value}}.
        without: {part of the recipe: the arguments that leave it out}.
    """
    planned = []
    parts: list[str | None] = [None, *without]
    for each, part in itertools.product(named, parts):
        for texts in itertools.product(*vary.values()):
            varied = dict(zip(vary, texts, strict=True))
            arguments = each.arguments.replace(**{name: vary[name][text] for name, text in varied.items()})
            if part is not None:
                arguments = arguments.replace(**without[part].given)
            planned.append(Variant(each.name, arguments, varied, part, each.shares_warmup))
    return planned


def describe(name: str, varied: Mapping[str, str], without: str | None = None) -> str:
    """Return what is compared in words: the name, the part that is left out, and the varied arguments."""
    part = [f"without {without}"] if without else []
    return ", ".join([name, *part, *(f"{argument} {value}" for argument, value in varied.items())])
