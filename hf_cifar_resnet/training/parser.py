"""The command line: arguments, recipes, and the data arguments in a checkpoint's run record."""

import json
import sys
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from .. import schedules
from ..choices import current_name
from ..data.arguments import DataArguments
from ..documents import read_json, read_yaml
from ..errors import LineParser, UserError, explained
from ..runs.files import RUN_JSON, find_run_record
from .arguments import CifarTrainingArguments, ModelArguments

ALL_ARGUMENTS = (ModelArguments, DataArguments, CifarTrainingArguments)
RECIPES = resources.files("hf_cifar_resnet") / "recipes"
# Arguments on the command line, and those of a recipe that they replace.
REPLACES = (
    (("depth",), ("block", "stage_depths", "stage_widths")),
    (("block", "stage_depths"), ("depth",)),
    (("global_batch_size",), ("per_device_train_batch_size",)),
)
_TRAINERS = "all other arguments of transformers.TrainingArguments"
# The headings of `--help`, in this order, the dataclass that each belongs to, and the arguments below it.
HEADINGS = (
    ("model", ModelArguments, ModelArguments.__annotations__),
    ("data", DataArguments, DataArguments.__annotations__),
    ("training", CifarTrainingArguments, {"config", *CifarTrainingArguments.__annotations__}),
    (_TRAINERS, CifarTrainingArguments, TrainingArguments.__annotations__),
)


class CifarArgumentParser(LineParser, HfArgumentParser):
    """An argument parser with recipes, errors of one line, and our own flags before the Trainer's in `--help`."""

    def __init__(self, dataclass_types, **kwargs):
        self._groups = {}
        super().__init__(dataclass_types, usage="%(prog)s [options]", **kwargs)
        if CifarTrainingArguments in self.dataclass_types:
            help = f"a recipe ({', '.join(recipe_names())}) or a YAML file; flags win over it"
            self.add_argument("--config", metavar="NAME_OR_FILE", help=help)

    def add_argument(self, *names, **options):
        if options.get("type") is string_to_bool:
            # A bare `--bf16`, whose default is None, means true, as it does for all other booleans.
            options = {"nargs": "?", "const": True} | options
        name = options.get("dest", names[0].lstrip("-"))
        found = (heading for heading, kind, known in HEADINGS if name in known and kind in self.dataclass_types)
        heading = next(found, None)
        if heading is not None and heading not in self._groups:
            self._groups[heading] = self.add_argument_group(heading)
        return super().add_argument(*names, group=self._groups.get(heading), **options)

    def parse(self, argv=None):
        """Return the dataclasses for a command line and the recipe that it names. Raises [`UserError`]."""
        argv = list(sys.argv[1:] if argv is None else argv)
        given, _ = self.parse_known_args(argv)
        if getattr(given, "config", None) is not None:
            argv = self._recipe_arguments(given, argv) + argv
            given, _ = self.parse_known_args(argv)
        if getattr(given, "eval_split", None) == "none" and CifarTrainingArguments in self.dataclass_types:
            self._train_without_evaluations(argv)
        with explained("", ValueError, TypeError, OSError, ImportError):
            *parsed, rest = self.parse_args_into_dataclasses(argv, True, look_for_args_file=False)
        if rest:
            raise UserError(self._unknown(rest[0]))
        return parsed

    def _train_without_evaluations(self, argv):
        """Set the defaults of a run without evaluations. Raises [`UserError`] for arguments that need them."""
        self.set_defaults(eval_strategy="no", load_best_model_at_end=False)
        given, _ = self.parse_known_args(argv)
        needy = {
            "lr_scheduler_type": schedules.get(given.lr_scheduler_type).by_evaluations,
            "eval_strategy": given.eval_strategy != "no",
            "load_best_model_at_end": given.load_best_model_at_end,
            "early_stopping_patience": given.early_stopping_patience is not None,
            "save_strategy": given.save_strategy == "best",
            "eval_on_start": given.eval_on_start,
        }
        for name, needs_evaluations in needy.items():
            if needs_evaluations:
                argument = f"--{name} {getattr(given, name)}"
                raise UserError(f"{argument} needs evaluations, and --eval_split none makes none: leave one out")

    def _recipe_arguments(self, given, argv):
        recipe = read_recipe(given.config)
        typed = {argument.split("=")[0].lstrip("-").replace("-", "_") for argument in argv if argument.startswith("--")}
        for these, those in REPLACES:
            if typed.intersection(these):
                recipe = {key: value for key, value in recipe.items() if key not in those}
        for name, options in (("lr_scheduler_type", "lr_scheduler_kwargs"), ("optim", "optim_args")):
            if name in typed and getattr(given, name) != recipe.get(name):
                recipe.pop(options, None)  # of another schedule or optimizer
        arguments = []
        for key, value in recipe.items():
            with explained(f"recipe {given.config}", TypeError, ValueError, RecursionError):
                action = self.flags.get(f"--{key}")
                if action is None or key in ("config", "help"):
                    raise UserError(self._unknown(key))
                if value is None:
                    raise UserError(f"{key} has no value: give it one, or leave the line out")
                if isinstance(value, list) and action.nargs not in ("+", "*"):
                    raise UserError(f"{key} takes one value, not a list")
                value = json.dumps(value, default=str) if isinstance(value, dict) else value
                arguments += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
        return arguments

    def _unknown(self, name):
        near = get_close_matches(name.split("=")[0], self.flags, n=1, cutoff=0.5)
        return f"unknown argument {name}" + (f"; did you mean {near[0]}?" if near else "; --help lists all")


def recipe_names():
    """Return the names of the built-in recipes."""
    return sorted(file.name.removesuffix(".yaml") for file in RECIPES.iterdir() if file.name.endswith(".yaml"))


def read_recipe(name):
    """Return the arguments in a built-in recipe or a YAML file as a dict. Raises [`UserError`]."""
    name = current_name("recipe", name)
    file = RECIPES / f"{name}.yaml" if name in recipe_names() else Path(name)
    if isinstance(file, Path) and not file.exists():
        raise UserError(f"--config {name}: there is no such recipe or file; recipes: {', '.join(recipe_names())}")
    with explained(f"--config {name} cannot be read", OSError, ValueError):
        content = read_yaml(file)
        recipe = {str(key).replace("-", "_"): value for key, value in content.items()}
        if len(recipe) < len(content):
            raise ValueError("an argument is given twice, with - and with _ in its name")
        return recipe


def parse_arguments(argv=None, prog=None):
    """Return [`ModelArguments`], [`DataArguments`] and [`CifarTrainingArguments`] for a command line."""
    return CifarArgumentParser(ALL_ARGUMENTS, prog=prog, description="Train a ResNet on small images.").parse(argv)[:3]


def parse_with_run_record(parser, argv, others=None):
    """
    Parse a command line whose first argument is a checkpoint. Data arguments default to those in its run record.
    `parser` is a [`CifarArgumentParser`] of [`DataArguments`]; `others` is the help of further checkpoints, which are
    not accepted without it.

    Return options, [`DataArguments`] (`dataset_name` is None if neither the record nor the command line has one), and
    the run record ({} if there is none).
    """
    from ..hub.resolve import resolve

    parser.add_argument("checkpoint", help="a folder that training wrote, or a Hub id")
    if others:
        parser.add_argument("others", nargs="*", metavar="checkpoint", help=others)
    path = find_run_record(resolve(parser.parse_known_args(argv)[0].checkpoint))
    with explained(path, OSError, ValueError):
        record = read_json(path) if path else {}
    given = _parse_data_arguments(record.get("data_arguments") or {})
    parser.set_defaults(dataset_name=given.get("dataset_name"))
    # The run's columns and revision do not fit another dataset.
    if parser.parse_known_args(argv)[0].dataset_name == given.get("dataset_name"):
        parser.set_defaults(**given)
    data_args, options = parser.parse(argv)
    return options, data_args, record


def _parse_data_arguments(given):
    """Return a run's data arguments, validated like a command line because the checkpoint may be from anybody."""
    with explained(f"the data_arguments of {RUN_JSON} are wrong", AttributeError, ValueError):
        given = {name: given[name] for name in DataArguments.__annotations__ if given.get(name) is not None}
        words = [[f"--{name}", *(value if isinstance(value, list) else [value])] for name, value in given.items()]
        [parsed] = CifarArgumentParser(DataArguments).parse([str(word) for part in words for word in part])
    return {name: getattr(parsed, name) for name in given}
