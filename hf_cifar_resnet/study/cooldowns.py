"""
Accuracy against the budget from little more than one run: shorter budgets branch off the longest (Hägele et al. 2024,
https://arxiv.org/abs/2405.18392).

The learning rate of `warmup_stable_decay` is constant between its warmup and the last fifth of a run. So a run of fewer
epochs is the longest run up to there, and only its own decay is trained. Each branch is bit-identical to a run that was
planned for its budget.
"""

import shutil

from ..checkpoints.resume import read_progress
from ..checkpoints.save import rotate_checkpoints
from ..commands.parser import parse_arguments
from ..documents import replacing_files
from ..errors import UserError
from ..runs.files import HISTORY_CSV, checkpoint_path, list_checkpoints
from ..runs.history import History
from ..training.arguments import resolve
from .execute import execute_runs

EPOCHS = "num_train_epochs"
SCHEDULE = "warmup_stable_decay"
# A budget is a multiple of this, so that its last fifth, the decay, begins with an epoch.
UNIT = 5


def check_cooldowns(budgets, runs, common):
    """Raise [`UserError`] where a branch would not be the run that was planned for its budget."""
    if len(set(budgets)) < 2 or any(budget % UNIT or budget < UNIT for budget in budgets):
        raise UserError(
            f"--cooldowns needs two numbers of epochs or more, multiples of {UNIT}, got {' '.join(map(str, budgets))}"
        )
    for run in _stable(runs):
        args = resolve(parse_arguments([*common, *run.arguments()])).training
        stop = args.mixing_stop_epoch
        wrong = {
            "--max_steps would end every run at the same step": args.max_steps > 0,
            "--lr_scheduler_kwargs may move the start of the decay": bool(args.lr_scheduler_kwargs),
            "--early_stopping_patience may end the longest run early": args.early_stopping_patience is not None,
            "--warmup_steps must be a number of steps, such as 500, since a share of all steps (5% if it is not given) "
            "differs between budgets": args.warmup_steps < 1,
            "--mixing_stop_epoch must not be a share of a run before its decay": stop is not None and stop < 0.8,
            "--save_strategy and --eval_strategy must be epoch": {args.save_strategy, args.eval_strategy} != {"epoch"},
        }
        for reason, is_wrong in wrong.items():
            if is_wrong:
                raise UserError(f"--cooldowns: {reason}")


def plan_branches(runs):
    """Return {name of a branch: the run that it branches off}. The latter are set to keep all their checkpoints."""
    longest, branches = {}, {}
    for run in sorted(_stable(runs), key=lambda run: -_budget(run)):
        varied = {name: value for name, value in run.variant.varied.items() if name != EPOCHS}
        trunk = longest.setdefault((run.seed, run.variant.without, *varied.items()), run)
        if trunk is run:
            run.options = {"save_total_limit": str(_budget(run))}
        else:
            branches[run.name] = trunk
    return branches


def _stable(runs):
    return [run for run in runs if run.variant.schedule == SCHEDULE]


def _budget(run):
    return int(run.variant.varied[EPOCHS])


def branch_off(run, trunk):
    """Copy the checkpoint where the decay of a run begins, and the best one up to there, from a longer run."""
    if run.finished or list_checkpoints(run.folder):
        return
    start = _budget(run) * (UNIT - 1) // UNIT
    history = History.read(trunk.folder / HISTORY_CSV)
    step = next(row.step for row in history if row.epoch == start)
    checkpoint = checkpoint_path(trunk.folder, step)
    if not checkpoint.is_dir():  # dropped before this budget was added: the run is trained in full
        return
    with replacing_files(run.folder) as temporary:
        for source in filter(None, (read_progress(checkpoint).best, checkpoint)):
            shutil.copytree(source, temporary / source.name, dirs_exist_ok=True)


def execute_with_branches(runs, common, engine):
    """Execute the longest runs and all others that are no branch, then the branches. Return those that failed."""
    branches = plan_branches(runs)
    failed = execute_runs([run for run in runs if run.name not in branches], common, engine)
    ready = [run for run in runs if run.name in branches and branches[run.name] not in failed]
    for run in ready:
        branch_off(run, branches[run.name])
    failed += [run for run in runs if run.name in branches and run not in ready] + execute_runs(ready, common, engine)
    if not failed:
        for trunk in branches.values():
            last = list_checkpoints(trunk.folder)[-1]
            rotate_checkpoints(trunk.folder, 2, list(filter(None, (last, read_progress(last).best))))
    return failed
