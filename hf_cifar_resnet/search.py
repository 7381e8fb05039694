"""Hyper-parameter search with Optuna, through the Trainer's own `hyperparameter_search` (extra `search`)."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .errors import UserError, reports_user_errors
from .reporting import records
from .training.arguments import CifarTrainingArguments, DataArguments, ModelArguments
from .training.figures import NonFiniteError
from .training.launch import holds_run, run_folder
from .training.parsing import CifarArgumentParser
from .training.run import build_trainer, check_metric, load_data, quieten_libraries
from .training.starting_point import build_model

BEST_JSON = "search.json"
# What can change from trial to trial: the Trainer sets it after the arguments were checked and divided over devices.
SEARCHABLE = (
    "learning_rate", "weight_decay", "label_smoothing_factor", "max_grad_norm", "warmup_steps", "num_train_epochs",
    "adam_beta1", "adam_beta2", "adam_epsilon",
)  # fmt: skip


@reports_user_errors
def main(argv=None, prog=None):
    """Trains `--trials` models, each on one point of the space, and reports the best by validation."""
    options, space, model_args, data_args, args = _parse(argv, prog)
    if find_spec("optuna") is None:
        raise UserError('search needs Optuna: pip install "hf-cifar-resnet[search]"')
    quieten_libraries(args)
    folder = Path(args.output_dir)
    if (folder / BEST_JSON).exists() or holds_run(folder):
        raise UserError(f"--output_dir {folder} holds a search or a run already: choose another")
    data = load_data(data_args, args.seed)
    check_metric(args, data)
    args = args.suited_to(build_model(model_args, data))
    with run_folder(args):
        trainer = build_trainer(
            None, args, data, data_args.eval_split, model_init=lambda: build_model(model_args, data)
        )
        best = _search(trainer, space, options, args)
        found = {args.metric_for_best_model: best.objective, "trials": options.trials}
        records.write_json(found | {"arguments": best.hyperparameters}, folder / BEST_JSON)
    settings = " ".join(f"--{name} {value:.4g}" if isinstance(value, float) else f"--{name} {value}"
                        for name, value in best.hyperparameters.items())  # fmt: skip
    print(f"Best {args.metric_for_best_model} on {data_args.eval_split}: {best.objective:.4f} with {settings}")
    return found


def _search(trainer, space, options, args):
    """The best trial, as transformers returns it."""
    import optuna

    try:
        return trainer.hyperparameter_search(
            hp_space=lambda trial: {dimension.name: dimension.suggest(trial) for dimension in space},
            compute_objective=lambda metrics: metrics[f"eval_{args.metric_for_best_model.removeprefix('eval_')}"],
            n_trials=options.trials,
            direction="maximize" if args.greater_is_better else "minimize",
            backend="optuna",
            sampler=optuna.samplers.TPESampler(seed=args.seed),
            catch=NonFiniteError,  # a trial that diverges is a bad one, and the others go on
        )
    except ValueError as error:  # where all of them diverge
        raise UserError(f"the search found nothing: {error}") from error


def _parse(argv, prog):
    types = (ModelArguments, DataArguments, CifarTrainingArguments)
    parser = CifarArgumentParser(
        types, prog=prog, description="Search training arguments; all other arguments are those of `train`."
    )
    parser.add_argument("--space", nargs="+", required=True, metavar="NAME=LOW:HIGH[:log]|NAME=A,B",
                        help="a range, on a log scale if it says so, or choices")  # fmt: skip
    parser.add_argument("--trials", type=int, default=20, help="models to train")
    *parsed, options = parser.parse(argv)
    if options.trials < 1:
        raise UserError(f"--trials must be at least 1, got {options.trials}")
    space = [parse_dimension(text) for text in options.space]
    _check(space, parser, sys.argv[1:] if argv is None else argv)
    model_args, data_args, args = parsed
    if not args.output_dir_given:
        args.output_dir = "studies/search"
    # Trials compete by their last evaluation; keeping checkpoints of all would fill the disk.
    args.save_strategy, args.load_best_model_at_end = "no", False
    return options, space, model_args, data_args, args


@dataclass
class Dimension:
    """An argument to search: its choices, or the two ends of its range."""

    name: str
    values: list
    is_range: bool = False
    log: bool = False

    def suggest(self, trial):
        """A value for an Optuna trial."""
        if self.is_range:
            return trial.suggest_float(self.name, *self.values, log=self.log)
        return trial.suggest_categorical(self.name, self.values)


def parse_dimension(text):
    """
    A [`Dimension`], from `NAME=LOW:HIGH`, `NAME=LOW:HIGH:log` or `NAME=A,B,C`.

    Raises:
        UserError: if it is neither.
    """
    name, _, values = text.partition("=")
    name = name.lstrip("-").replace("-", "_")
    try:
        if ":" in values:
            low, high, *scale = values.split(":")
            low, high = float(low), float(high)
            if scale not in ([], ["log"]) or not low < high or (scale and low <= 0):
                raise ValueError
            return Dimension(name, [low, high], is_range=True, log=bool(scale))
        if not all(values.split(",")):
            raise ValueError
        return Dimension(name, [_number_or_text(value) for value in values.split(",")])
    except ValueError:
        raise UserError(f"--space {text}: write it as NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B") from None


def _check(space, parser, argv):
    """Raises [`UserError`] for what is there twice, or `train` does not take: no trial should find out."""
    names = [dimension.name for dimension in space]
    unknown = sorted(set(names) - set(SEARCHABLE))
    if unknown:
        raise UserError(
            f"--space: cannot search {', '.join(unknown)}, only {', '.join(SEARCHABLE)}; `study --vary` can"
        )
    for dimension in space:
        if names.count(dimension.name) > 1:
            raise UserError(f"--space {dimension.name} is given twice")
        parsed = []
        for value in dimension.values:
            try:
                *_, args, _ = parser.parse([*argv, f"--{dimension.name}", str(value)])
            except UserError as error:
                raise UserError(f"--space {dimension.name}: {error}") from error
            parsed.append(getattr(args, dimension.name))
        if len(set(parsed)) < len(parsed):
            raise UserError(f"--space {dimension.name} has equal values: {', '.join(map(str, dimension.values))}")


def _number_or_text(text):
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text
