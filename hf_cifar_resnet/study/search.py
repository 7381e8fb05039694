"""Search hyper-parameters with Optuna, through the Trainer's `hyperparameter_search` (extra `search`)."""

from dataclasses import dataclass

from ..errors import UserError
from ..training.figures import NonFiniteError

BEST_JSON = "search.json"
# What can change from trial to trial: the Trainer sets it after the arguments were checked and divided over devices.
SEARCHABLE = (
    "learning_rate", "weight_decay", "label_smoothing_factor", "max_grad_norm", "warmup_steps", "num_train_epochs",
    "adam_beta1", "adam_beta2", "adam_epsilon",
)  # fmt: skip


def find_best(trainer, space, options, args):
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


def check_space(space, parser, argv):
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
