"""
Accuracy against the budget from little more than one run: shorter budgets branch off the longest (Hägele et al. 2024,
https://arxiv.org/abs/2405.18392).

The learning rate of `warmup_stable_decay` is constant between its warmup and the last fifth of a run. So a run of fewer
epochs is the longest run up to there, and only its own decay is trained. Each branch is bit-identical to a run that was
planned for its budget.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

from ..checkpoints.resume import read_progress
from ..checkpoints.save import rotate_checkpoints
from ..documents import replacing_files
from ..runs.folder import RunFolder
from ..training.arguments import resolve_elsewhere
from .execute import Engine, Write, execute_runs
from .plan import PlannedRun
from .variant import SCHEDULE

EPOCHS = "num_train_epochs"
STABLE_DECAY = "warmup_stable_decay"
# A budget is a multiple of this, so that its last fifth, the decay, begins with an epoch.
UNIT = 5


def check_cooldowns(budgets: Sequence[int], runs: Sequence[PlannedRun]) -> None:
    """Raise `ValueError` where a branch would not be the run that was planned for its budget."""
    if len(set(budgets)) < 2 or any(budget % UNIT or budget < UNIT for budget in budgets):
        given = " ".join(map(str, budgets))
        raise ValueError(f"cooldowns needs two numbers of epochs or more, multiples of {UNIT}, got {given}")
    for run in _stable(runs):
        args = resolve_elsewhere(run.arguments).training
        stop = args.mixing_stop_epoch
        wrong = {
            "max_steps would end every run at the same step": args.max_steps > 0,
            "lr_scheduler_kwargs may move the start of the decay": bool(args.lr_scheduler_kwargs),
            "early_stopping_patience may end the longest run early": args.early_stopping_patience is not None,
            "warmup_steps must be a number of steps, such as 500, since a share of all steps (5% if it is not given) "
            "differs between budgets": args.warmup_steps < 1,
            "mixing_stop_epoch must not be a share of a run before its decay": stop is not None and stop < 0.8,
            "save_strategy and eval_strategy must be epoch": {args.save_strategy, args.eval_strategy} != {"epoch"},
        }
        for reason, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f"cooldowns: {reason}")


def plan_branches(runs: Sequence[PlannedRun]) -> tuple[list[PlannedRun], dict[str, PlannedRun]]:
    """
    Return the runs, of which the longest keep all their checkpoints, and {name of a branch: the run that it branches
    off}.
    """
    longest: dict[object, PlannedRun] = {}
    branches: dict[str, PlannedRun] = {}
    for planned in sorted(_stable(runs), key=lambda each: -_budget(each)):
        run = planned.run
        varied = {name: value for name, value in run.varied.items() if name != EPOCHS}
        key = run.variant, run.seed, run.without, *varied.items()
        if key in longest:
            branches[planned.name] = longest[key]
        else:
            arguments = planned.arguments.replace(save_total_limit=_budget(planned))
            longest[key] = replace(planned, arguments=arguments)
    keeping = {each.name: each for each in longest.values()}
    return [keeping.get(each.name, each) for each in runs], branches


def _stable(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    return [each for each in runs if each.arguments.get(SCHEDULE) == STABLE_DECAY]


def _budget(planned: PlannedRun) -> int:
    return int(planned.run.varied[EPOCHS])


def branch_off(planned: PlannedRun, trunk: PlannedRun) -> None:
    """Copy the checkpoint where the decay of a run begins, and the best one up to there, from a longer run."""
    if planned.is_finished or RunFolder(planned.folder).checkpoints():
        return
    start = _budget(planned) * (UNIT - 1) // UNIT
    longer = RunFolder(trunk.folder)
    step = next(row.step for row in longer.read_history() if row.epoch == start)
    checkpoint = longer.checkpoint(step)
    if not checkpoint.is_dir():  # dropped before this budget was added: the run is trained in full
        return
    with replacing_files(planned.folder) as temporary:
        for source in filter(None, (read_progress(checkpoint).best, checkpoint)):
            shutil.copytree(source, temporary / source.name, dirs_exist_ok=True)


def execute_with_branches(runs: Sequence[PlannedRun], engine: Engine, write: Write = print) -> list[PlannedRun]:
    """Execute the longest runs and all others that are no branch, then the branches. Return those that failed."""
    runs, branches = plan_branches(runs)
    failed = execute_runs([run for run in runs if run.name not in branches], engine, write)
    names = {run.name for run in failed}
    ready = [run for run in runs if run.name in branches and branches[run.name].name not in names]
    for run in ready:
        branch_off(run, branches[run.name])
    failed += [run for run in runs if run.name in branches and run not in ready] + execute_runs(ready, engine, write)
    if not failed:
        for trunk in {trunk.name: trunk for trunk in branches.values()}.values():
            checkpoints = RunFolder(trunk.folder).checkpoints()
            if not checkpoints:  # deleted to save space
                continue
            last = checkpoints[-1]
            rotate_checkpoints(trunk.folder, 2, list(filter(None, (last, read_progress(last).best))))
    return failed
