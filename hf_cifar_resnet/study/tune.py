"""Choose an argument, such as the peak LR, for each variant on validation, before the compared runs are trained."""

import math
from dataclasses import asdict
from statistics import mean

from ..errors import UserError
from .execute import execute_runs
from .plan import Run, check_runs, write_plan
from .read import as_number, read_study, selection_top1, variant_name


def check_tuning(variants, options, eval_split):
    """Raise [`UserError`] where there is nothing to choose on, or the compared runs would depend on the choice."""
    if eval_split == "none":
        raise UserError("--tune chooses by evaluations, and --eval_split none makes none: tune on validation first")
    if shared := sorted(set(options.tuning_seeds) & set(options.seeds)):
        raise UserError(f"--tuning_seeds and --seeds must differ, both have {shared[0]}: compare on fresh seeds")
    for variant in variants:
        if options.tune.name in variant.varied | variant.ablation:
            raise UserError(f"--tune {options.tune.name} is varied or ablated too: choose one")


def tune(study, variants, options, common):
    """
    Train the tuning runs, and return the chosen value of each variant by its name.

    A grid is one round of all its values. A range is searched by Optuna's TPE in rounds of one value of each variant; a
    study that is started again repeats the same trials, whose finished runs are kept. A value with a run that failed,
    such as a diverged one, is not chosen. Raises [`UserError`] if nothing is left to choose from.
    """
    dimension, variants = options.tune, {variant_name(asdict(variant)): variant for variant in variants}
    searches = {}
    if dimension.scale:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for name in variants:
            searches[name] = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    for _ in range(options.tuning_trials if searches else 1):
        trials = {name: search.ask() for name, search in searches.items()}
        values = {name: [f"{dimension.suggest(trial):.3g}"] for name, trial in trials.items()}
        runs = [
            Run(study, variant, seed, {dimension.name: value}, tuning=True)
            for seed in options.tuning_seeds
            for name, variant in variants.items()
            for value in values.get(name, dimension.values)
        ]
        check_runs(runs, common)
        write_plan(study, runs, options, common)
        execute_runs(runs, common, options.engine)
        tried = read_tried(study)
        for name, trial in trials.items():
            score = tried[name][values[name][0]]
            searches[name].tell(trial, 0.0 if score is None else score)
    return {name: choose(tried[name], name) for name in variants}


def read_tried(study):
    """
    Return {variant: {value: score}} of the tuning runs in a study's folder, by rising value. The score is the mean
    top-1 accuracy over the tuning seeds on the split that epochs were selected on, None if a run is not finished.
    """
    finished, unfinished = read_study(study)
    runs, tried = {}, {}
    for run in [*finished, *unfinished]:
        if run["tuning"]:
            [value] = run["tuned"].values()
            runs.setdefault(variant_name(run), {}).setdefault(value, []).append(run)
    for name, values in runs.items():
        scores = {
            value: mean(selection_top1(members)) if all("metrics" in run for run in members) else None
            for value, members in values.items()
        }
        tried[name] = dict(sorted(scores.items(), key=lambda item: (as_number(item[0]), item[0])))
    return tried


def choose(scores, variant):
    """Return the value with the highest score. Raises [`UserError`] if no value has one."""
    known = {value: score for value, score in scores.items() if score is not None}
    if not known:
        raise UserError(f"no tuning run of {variant} finished, so nothing can be chosen for it")
    return max(known, key=known.get)


def at_edge(scores, value):
    """Return whether a chosen number is the lowest or the highest that was tried."""
    values = list(scores)
    return len(values) > 1 and as_number(value) < math.inf and value in (values[0], values[-1])
