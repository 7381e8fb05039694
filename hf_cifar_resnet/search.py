"""Hyper-parameter search with Optuna, through the Trainer's own `hyperparameter_search` (extra `search`)."""

from pathlib import Path

from .errors import UserError, reports_user_errors
from .reporting import records
from .training.arguments import CifarTrainingArguments, DataArguments, ModelArguments
from .training.figures import NonFiniteError
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
    options, model_args, data_args, args = _parse(argv, prog)
    try:
        import optuna
    except ImportError as error:
        raise UserError('search needs Optuna: pip install "hf-cifar-resnet[search]"') from error
    quieten_libraries(args)
    space = dict(parse_dimension(text) for text in options.space)
    unknown = sorted(set(space) - set(SEARCHABLE))
    if unknown:
        raise UserError(
            f"--space: cannot search {', '.join(unknown)}, only {', '.join(SEARCHABLE)}; `study --vary` can"
        )
    folder = Path(args.output_dir)
    if (folder / BEST_JSON).exists():
        raise UserError(f"--output_dir {folder} holds a search already: choose another")
    data = load_data(data_args, args.seed)
    check_metric(args, data)
    args = args.suited_to(build_model(model_args, data))
    trainer = build_trainer(None, args, data, data_args.eval_split, model_init=lambda: build_model(model_args, data))
    try:
        best = trainer.hyperparameter_search(
            hp_space=lambda trial: {name: suggest(trial) for name, suggest in space.items()},
            compute_objective=lambda metrics: metrics[f"eval_{args.metric_for_best_model.removeprefix('eval_')}"],
            n_trials=options.trials,
            direction="maximize" if args.greater_is_better else "minimize",
            backend="optuna",
            sampler=optuna.samplers.TPESampler(seed=args.seed),
            catch=NonFiniteError,  # a trial that diverges is a bad one, and the others go on
        )
    except ValueError as error:  # where all of them diverge
        raise UserError(f"the search found nothing: {error}") from error
    found = {args.metric_for_best_model: best.objective, "trials": options.trials, "arguments": best.hyperparameters}
    records.write_json(found, folder / BEST_JSON)
    settings = " ".join(f"--{name} {value:.4g}" if isinstance(value, float) else f"--{name} {value}"
                        for name, value in best.hyperparameters.items())  # fmt: skip
    print(f"Best {args.metric_for_best_model} on {data_args.eval_split}: {best.objective:.4f} with {settings}")
    return found


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
    model_args, data_args, args = parsed
    if not args.output_dir_given:
        args.output_dir = "studies/search"
    # Trials compete by their last evaluation; keeping checkpoints of all would fill the disk.
    args.save_strategy, args.load_best_model_at_end = "no", False
    return options, model_args, data_args, args


def parse_dimension(text):
    """
    A name and a function of an Optuna trial, from `NAME=LOW:HIGH`, `NAME=LOW:HIGH:log` or `NAME=A,B,C`.

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
            return name, lambda trial: trial.suggest_float(name, low, high, log=bool(scale))
        choices = [_number_or_text(value) for value in values.split(",")]
        if not values:
            raise ValueError
        return name, lambda trial: trial.suggest_categorical(name, choices)
    except ValueError:
        raise UserError(f"--space {text}: write it as NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B") from None


def _number_or_text(text):
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text
