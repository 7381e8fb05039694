"""Command lines and recipes, parsed to [`RunArguments`]. Only commands import this module."""

import dataclasses
import os
import sys
from argparse import SUPPRESS, Action, HelpFormatter, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..data.arguments import DataArguments, current_name
from ..documents import read_yaml
from ..errors import expand_home, reason_of
from ..runs.arguments import RunArguments, Value, check_type
from ..runs.files import find_run_record
from ..runs.record import RunRecord
from ..training.arguments import CifarTrainingArguments, ModelArguments, json_object
from .line_parser import LineParser, with_default

ALL_ARGUMENTS = (ModelArguments, DataArguments, CifarTrainingArguments)
FORMER_RECIPES = {"seed": "notebook"}  # names that still work, with the present ones
RECIPES = Path(__file__).parents[1] / "recipes"
_TRAINERS = "all other arguments of transformers.TrainingArguments"
# The headings of `--help`, in this order, the dataclass that each belongs to, and the arguments below it.
HEADINGS = (
    ("model", ModelArguments, ModelArguments.__annotations__),
    ("data", DataArguments, DataArguments.__annotations__),
    ("training", CifarTrainingArguments, {"config", *CifarTrainingArguments.__annotations__}),
    (_TRAINERS, CifarTrainingArguments, TrainingArguments.__annotations__),
)


@dataclass(frozen=True)
class CommandLine:
    """
    A parsed command line.

    Args:
        options: the arguments of the command itself, with their defaults.
        typed: the run's arguments that the command line has.
        recipe: those of the recipe that `--config` names.
    """

    options: Namespace
    typed: RunArguments
    recipe: RunArguments = RunArguments()  # noqa: RUF009 (it is frozen)

    @property
    def arguments(self) -> RunArguments:
        """What was given for a run: the command line wins over the recipe."""
        return self.typed.over(self.recipe)


class CifarArgumentParser(LineParser, HfArgumentParser):  # pyright: ignore[reportIncompatibleMethodOverride] (overloads)
    """
    A parser of the arguments of dataclasses, and of a command's own options, which are added to it. It has recipes,
    errors of one line, and our own flags before transformers' in `--help`.
    """

    def __init__(self, dataclass_types: type | Sequence[type], **kwargs: Any) -> None:
        kinds = list(dataclass_types) if isinstance(dataclass_types, Sequence) else [dataclass_types]
        self._groups: dict[str, Any] = {}
        # The types of the run's arguments by name.
        self.annotations: dict[str, Any] = {}
        for kind in kinds:
            hints = get_type_hints(kind)
            self.annotations |= {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}
        super().__init__(kinds, usage="%(prog)s [options]", formatter_class=HelpFormatter, **kwargs)
        if CifarTrainingArguments in kinds:
            help = f"a recipe ({', '.join(recipe_names())}) or a YAML file; flags win over it"
            self.add_argument("--config", metavar="NAME_OR_FILE", help=help)

    def add_argument(self, *names: str, **settings: Any) -> Action:  # type: ignore[override]
        # `HfArgumentParser` takes `--a-b` for `--a_b` too, which `--help` leaves out.
        hidden = [alias for alias in names[1:] if alias == names[0].replace("_", "-")]
        shown = [each for each in names if each not in hidden]
        name = settings.get("dest", names[0].lstrip("-"))
        if settings.get("type") is string_to_bool:
            # A bare `--bf16`, whose default is None, means true, as it does for all other booleans.
            settings = {"nargs": "?", "const": True} | settings
        if name in self.annotations:
            if "help" in settings and settings.get("action") != "store_false":
                settings["help"] = with_default(settings["help"], settings.get("default"))
            # What is not given is not parsed: `RunArguments` has no defaults.
            settings["default"] = SUPPRESS
        kinds = list(getattr(self, "dataclass_types", ()))
        heading = next((title for title, kind, known in HEADINGS if name in known and kind in kinds), None)
        if heading is not None and heading not in self._groups:
            self._groups[heading] = self.add_argument_group(heading)
        action = super().add_argument(*shown, group=self._groups.get(heading or ""), **settings)
        if hidden:
            settings |= {"dest": action.dest, "help": SUPPRESS}
            super().add_argument(*hidden, **settings)
        return action

    def expand_home(self, parsed: Namespace) -> None:
        # A path of a run stays as it was given; on the machine that trains it may be another one.
        given = {name: value for name, value in vars(parsed).items() if name in self.annotations}
        expand_home(parsed)
        vars(parsed).update(given)

    def parse(self, argv: Sequence[str] | None = None) -> CommandLine:
        """
        Parse a command line, and read the recipe that it names. Raises `ValueError` for what is wrong in either, except
        values that are of the right type: [`~hf_cifar_resnet.training.arguments.resolve`] checks those.
        """
        parsed, rest = self.parse_known_args(list(sys.argv[1:] if argv is None else argv))
        if rest:
            raise ValueError(self.describe_unknown(rest[0]))
        typed = {name: value for name, value in vars(parsed).items() if name in self.annotations}
        options = Namespace(**{name: value for name, value in vars(parsed).items() if name not in typed})
        recipe = getattr(options, "config", None)
        return CommandLine(
            options,
            RunArguments({name: self._parse_json(name, value) for name, value in typed.items()}),
            RunArguments() if recipe is None else self._parse_recipe(recipe),
        )

    def _parse_recipe(self, name: str) -> RunArguments:
        return self.check_values(f"recipe {name}", read_recipe(name))

    def check_values(self, what: str, values: Mapping[str, Any]) -> RunArguments:
        """Return the arguments with these values of a YAML file. Raises `ValueError`, which begins with `what`."""
        checked = {}
        for key, value in values.items():
            try:
                if key not in self.annotations:
                    raise ValueError(self.describe_unknown(key))
                checked[key] = self._check_yaml(key, value)
            except ValueError as error:
                raise ValueError(f"{what}: {error}") from error
        return RunArguments(checked)

    def _check_yaml(self, name: str, value: Any) -> Value:
        """Return the value of a recipe's argument as its type asks. A text is parsed as on the command line."""
        takes_list = self.flags[f"--{name}"].nargs in ("+", "*")
        if value is None:
            raise ValueError(f"{name} has no value: give it one, or leave the line out")
        if isinstance(value, list) and not takes_list:
            raise ValueError(f"{name} takes one value, not a list")
        if isinstance(value, dict):
            value = json_object(name, value)
        elif not isinstance(value, list) and takes_list:
            value = [value]
        elif isinstance(value, str):
            return parse_value(name, value)
        if value == []:
            raise ValueError(f"{name} has no value: give it one, or leave the line out")
        return check_type(name, value, self.annotations[name])

    def _parse_json(self, name: str, value: Value) -> Value:
        """Return a dict for the JSON text of an argument that may be a dict, and any other value as it is."""
        may_be_dict = any(getattr(kind, "__origin__", kind) is dict for kind in get_args(self.annotations[name]))
        is_object = isinstance(value, str) and value.lstrip().startswith("{")
        return json_object(name, value) if may_be_dict and is_object else value


def recipe_names() -> list[str]:
    """Return the names of the built-in recipes."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """Return the arguments in a built-in recipe or a YAML file. Raises `ValueError` if it cannot be read."""
    name = current_name("recipe", name, FORMER_RECIPES)
    file = RECIPES / f"{name}.yaml" if name in recipe_names() else Path(name)
    if not file.exists():
        raise ValueError(f"--config {name}: there is no such recipe or file; recipes: {', '.join(recipe_names())}")
    try:
        content = read_yaml(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"--config {name} cannot be read: {reason_of(error)}") from error
    recipe = {str(key).replace("-", "_"): value for key, value in content.items()}
    if len(recipe) < len(content):
        raise ValueError(f"--config {name} has an argument twice, with - and with _ in its name")
    return recipe


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> RunArguments:
    """Return what a command line of `train` and its recipe give."""
    parser = CifarArgumentParser(ALL_ARGUMENTS, prog=prog, description="Train a ResNet on small images.")
    return parser.parse(argv).arguments


def parse_value(name: str, text: str) -> Value:
    """Return the value that a text means for an argument of a run, such as 0.001 for `1e-3`. Raises `ValueError`."""
    # With "=", since the text may begin with a dash.
    [value] = _parser_of_all().parse([f"--{name}={text}"]).typed.given.values()
    return value


@cache
def _parser_of_all() -> CifarArgumentParser:
    return CifarArgumentParser(ALL_ARGUMENTS)


# Arguments of the data that a checkpoint's image processor decides, or that matter in training alone.
WITHOUT_EFFECT = (
    "image_size",
    "image_mean",
    "image_std",
    "augmentation",
    "color_jitter",
    "random_erasing",
    "eval_split",
)


def parse_with_run_record(
    parser: CifarArgumentParser, argv: Sequence[str] | None, others: str | None = None
) -> tuple[Namespace, DataArguments | None, RunRecord | None]:
    """
    Parse a command line whose first argument is a checkpoint. Data arguments default to those in its run record, unless
    another dataset is given, which the run's columns and revision would not fit. Raises `ValueError` for arguments
    that have no effect.

    Args:
        parser: a parser of [`DataArguments`].
        argv: the command line; that of this process if it is None.
        others: the help of further checkpoints, which are not accepted without it.

    Returns:
        The command's options, the data arguments (None if neither the record nor the command line names a dataset), and
        the run record (None if there is none).
    """
    from ..hub.resolve import resolve_checkpoint

    parser.add_argument("checkpoint", help="a folder that training wrote, or a Hub id")
    if others:
        parser.add_argument("others", nargs="*", metavar="checkpoint", help=others)
    for each in dataclasses.fields(DataArguments):
        help = f"{each.metadata['help']} (default: as in the run)"
        parser.flags[f"--{each.name}"].help = SUPPRESS if each.name in WITHOUT_EFFECT else help
    line = parser.parse(argv)
    for name in WITHOUT_EFFECT:
        if name in line.typed:
            raise ValueError(f"{name} has no effect here, where images are as the checkpoint needs them: leave it out")
    path = find_run_record(resolve_checkpoint(line.options.checkpoint))
    record = None if path is None else RunRecord.read(path)
    known = None if record is None else record.build_data_arguments()
    given = line.typed
    if known is not None and os.path.expanduser(given.get("dataset_name", known.dataset_name)) == known.dataset_name:
        # The split on which the run was evaluated is not the one that is needed now.
        given = given.over(RunArguments(vars(known)).replace(eval_split=None))
    names_dataset = known is not None or "dataset_name" in given
    return line.options, given.build(DataArguments) if names_dataset else None, record
