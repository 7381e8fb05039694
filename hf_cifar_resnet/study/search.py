"""Search hyper-parameters with Optuna, through the Trainer's `hyperparameter_search` (extra `search`)."""

from dataclasses import dataclass

from ..errors import UserError, explained
from ..training.arguments import resolve

BEST_JSON = "search.json"
# What can change between trials: the Trainer sets it after the arguments were checked and divided over devices.
SEARCHABLE = (
    "learning_rate", "weight_decay", "label_smoothing_factor", "max_grad_norm", "warmup_steps", "num_train_epochs",
    "adam_beta1", "adam_beta2", "adam_epsilon",
)  # fmt: skip


def find_best(trainer, space, options, args):
    """Return the best trial, as transformers returns it."""
    import optuna

    # The search raises it if every trial diverged.
    with explained("the search found nothing", ValueError):
        return trainer.hyperparameter_search(
            hp_space=lambda trial: {dimension.name: dimension.suggest(trial) for dimension in space},
            compute_objective=lambda metrics: metrics[f"eval_{args.metric_for_best_model.removeprefix('eval_')}"],
            n_trials=options.trials,
            direction="maximize" if args.greater_is_better else "minimize",
            backend="optuna",
            sampler=optuna.samplers.TPESampler(seed=args.seed),
            catch=FloatingPointError,  # a trial that diverges counts as a bad one, and the search continues
        )


@dataclass
class Dimension:
    """An argument to search: its choices, as they were typed, or the two ends of its range."""

    name: str
    values: list
    scale: str | None = None  # "linear" or "log" of a range

    def suggest(self, trial):
        if self.scale:
            return trial.suggest_float(self.name, *self.values, log=self.scale == "log")
        return trial.suggest_categorical(self.name, list(map(float, self.values)))


def parse_dimension(text, flag="--space"):
    """Parse `NAME=LOW:HIGH`, `NAME=LOW:HIGH:log` or `NAME=A,B,C`. Raises [`UserError`] if it is none of them."""
    name, _, values = text.partition("=")
    name = name.lstrip("-").replace("-", "_")
    try:
        if ":" in values:
            low, high, *scale = values.split(":")
            low, high = float(low), float(high)
            if scale not in ([], ["log"]) or not low < high or (scale and low <= 0):
                raise ValueError
            return Dimension(name, [low, high], "log" if scale else "linear")
        if not all(values.split(",")):
            raise ValueError
        return Dimension(name, values.split(","))
    except ValueError:
        raise UserError(f"{flag} {text}: write it as NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B") from None


def check_space(space, parse_value, given):
    """Raise [`UserError`] for duplicates and for values that `train` does not take, before any trial starts."""
    names = [dimension.name for dimension in space]
    if unknown := sorted(set(names) - set(SEARCHABLE)):
        raise UserError(
            f"--space: cannot search {', '.join(unknown)}, only {', '.join(SEARCHABLE)}; `study --vary` can"
        )
    for dimension in space:
        if names.count(dimension.name) > 1:
            raise UserError(f"--space {dimension.name} is given twice")
        parsed = []
        for value in dimension.values:
            with explained(f"--space {dimension.name}", ValueError):
                typed = parse_value(dimension.name, str(value))
                resolve(given.replace(**{dimension.name: typed}))
            parsed.append(typed)
        if len(set(parsed)) < len(parsed):
            raise UserError(f"--space {dimension.name} has equal values: {', '.join(map(str, dimension.values))}")
