import json
import math

import pytest
import torch

from hf_cifar_resnet import schedules

PEAK, STEPS, EVERY = 0.05, 20, 5  # EVERY: steps in an epoch
WITH_WARMUP = [name for name in schedules.names() if schedules.get(name).takes_warmup]
BY_EVALUATIONS = ["reduce_lr_on_plateau", "reduce_lr_on_plateau_with_warmup", "greedy"]


# Closed forms: the share of the peak at step `t` of STEPS after a warmup of `w` steps


def progress(t, w):
    return (t - w) / (STEPS - w)


def half_cosine(x):
    return (1 + math.cos(math.pi * x)) / 2


def between(start, end, x):
    """torch's cosine annealing from start to end."""
    return end + (start - end) * half_cosine(x)


def one_cycle(t, w, start=1 / 25, end=1 / 25e4, peak=1.0):
    rise = 0.3 * STEPS - 1
    return between(start, peak, t / rise) if t <= rise else between(peak, end, (t - rise) / (STEPS - 1 - rise))


def one_cycle_linear(t, w):
    rise, start, end = 0.5 * STEPS - 1, 1 / 10, 1 / 1000
    return start + (1 - start) * t / rise if t <= rise else 1 + (end - 1) * (t - rise) / (STEPS - 1 - rise)


def page(t, w):
    """The default of `points`: a tenth, the peak after a fifth of the run, 0 at the end."""
    return 0.1 + 0.9 * t / (STEPS / 5) if t < STEPS / 5 else (STEPS - t) / (STEPS * 0.8)


def greedy(t, w):
    """GreedyLR with factor 0.8 and patience 1: of constant scores the first is an improvement, the third lowers."""
    return 0.8 ** max(0, (t // EVERY - 1) // 2)


def never_better(t, w):
    """A plateau without patience: of the evaluations after the warmup the first is the best, all others cut."""
    evaluations = sum(step >= w for step in range(EVERY, t + 1, EVERY))
    return 0.5 ** max(0, evaluations - 1)


def ramp(t, w):
    return t / w


def ramp_from_first(t, w):
    return (t + 1) / w


# Schedule, arguments, warmup_steps, steps of warmup, share of the peak after it
CASES = [
    ("constant", {}, 0, 0, lambda t, w: 1),
    ("constant_with_warmup", {}, 0, 1, lambda t, w: 1),
    ("constant_with_warmup", {}, 6, 6, lambda t, w: 1),
    ("linear", {}, 0, 0, lambda t, w: 1 - progress(t, w)),
    ("linear", {}, 0.28, 6, lambda t, w: 1 - progress(t, w)),
    ("cosine", {}, 0, 0, lambda t, w: half_cosine(progress(t, w))),
    ("cosine", {"num_cycles": 1.5}, 6, 6, lambda t, w: half_cosine(3 * progress(t, w))),
    ("cosine_with_warmup", {}, 0, 1, lambda t, w: half_cosine(progress(t, w))),
    ("cosine_with_warmup", {}, 6, 6, lambda t, w: half_cosine(progress(t, w))),
    ("cosine_with_restarts", {}, 0, 0, lambda t, w: half_cosine(3 * progress(t, w) % 1)),
    ("cosine_with_restarts", {"num_cycles": 2}, 6, 6, lambda t, w: half_cosine(2 * progress(t, w) % 1)),
    ("cosine_with_min_lr", {}, 6, 6, lambda t, w: 0.1 + 0.9 * half_cosine(progress(t, w))),
    ("cosine_with_min_lr", {"min_lr": 0.01}, 0, 0, lambda t, w: 0.2 + 0.8 * half_cosine(progress(t, w))),
    ("cosine_warmup_with_min_lr", {}, 6, 6, lambda t, w: 0.1 + 0.9 * half_cosine(progress(t + 1, w))),
    ("inverse_sqrt", {}, 0, 0, lambda t, w: math.sqrt(10_000 / (10_000 + t))),
    ("inverse_sqrt", {}, 6, 6, lambda t, w: math.sqrt(6 / t)),
    ("polynomial", {"power": 2, "lr_end": 0.01}, 6, 6, lambda t, w: 0.2 + 0.8 * (1 - progress(t, w)) ** 2),
    ("warmup_stable_decay", {}, 0, 1, lambda t, w: half_cosine(max(0, t - 16) / 4)),
    ("warmup_stable_decay", {}, 6, 6, lambda t, w: half_cosine(max(0, t - 16) / 4)),
    ("step", {}, 0, 0, lambda t, w: 0.2 ** ((t >= 6) + (t >= 12) + (t >= 16))),
    ("step", {"milestones": [7, 0.5], "gamma": 0.1}, 6, 6, lambda t, w: 0.1 ** ((t >= 7) + (t >= 10))),
    ("exponential", {}, 0, 0, lambda t, w: 0.01 ** progress(t, w)),
    ("exponential", {"final_factor": 0.1}, 6, 6, lambda t, w: 0.1 ** progress(t, w)),
    ("rex", {}, 0, 0, lambda t, w: 2 * (STEPS - t) / (2 * STEPS - t)),
    ("rex", {}, 6, 6, lambda t, w: 2 * (1 - progress(t, w)) / (2 - progress(t, w))),
    ("points", {}, 0, 0, page),
    ("points", {"points": [[0, 1], [10, 0.5]]}, 0, 0, lambda t, w: max(0.5, 1 - t / 20)),
    ("greedy", {}, 0, 0, greedy),
    ("one_cycle", {}, 0, 0, one_cycle),
    ("one_cycle", {"pct_start": 0.5, "anneal_strategy": "linear", "div_factor": 10, "final_div_factor": 100}, 0, 0,
     one_cycle_linear),
    ("reduce_lr_on_plateau", {"patience": 0}, 0, 0, never_better),
    ("reduce_lr_on_plateau", {"patience": 0}, 6, 6, never_better),
    ("reduce_lr_on_plateau_with_warmup", {"patience": 0}, 0, 1, never_better),
    ("reduce_lr_on_plateau_with_warmup", {"patience": 0}, 6, 6, never_better),
]  # fmt: skip


def case_id(value):
    return str(value) if not callable(value) else ""


def expected_rates(name, warmup, share):
    rise = ramp_from_first if name == "cosine_warmup_with_min_lr" else ramp
    return [PEAK * (rise if t < warmup else share)(t, warmup) for t in range(STEPS)]


def make_scheduler(name, kwargs, warmup_steps):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    return schedules.create(name, optimizer, STEPS, warmup_steps, kwargs)


def run_schedule(scheduler, rule=None, start=0):
    """Yield the step, learning rate and momentum of each step; every evaluation has the same score."""
    for step in range(start, STEPS):
        group = scheduler.optimizer.param_groups[0]
        yield step, group["lr"], group["betas"][0]
        scheduler.optimizer.step()
        scheduler.step()
        if rule and (step + 1) % EVERY == 0 and step + 1 >= scheduler.warmup_steps:
            rule.apply(scheduler, 0.5, greater_is_better=True)


@pytest.mark.parametrize("name, kwargs, warmup_steps, warmup, share", CASES, ids=case_id)
def test_closed_form(name, kwargs, warmup_steps, warmup, share):
    """Of every schedule; saved and loaded in the middle of a run, it continues with the same learning rates."""
    scheduler, rules = make_scheduler(name, kwargs, warmup_steps), schedules.get(name).make_callbacks(kwargs)
    steps = []
    for step in run_schedule(scheduler, *rules):
        if step[0] == 12:
            state, optimizer_state = json.dumps(scheduler.state_dict()), scheduler.optimizer.state_dict()
        steps.append(step)
    assert [rate for _, rate, _ in steps] == pytest.approx(expected_rates(name, warmup, share), rel=1e-9, abs=1e-15)
    resumed = make_scheduler(name, kwargs, warmup_steps)
    resumed.optimizer.load_state_dict(optimizer_state)
    resumed.load_state_dict(json.loads(state))
    assert list(run_schedule(resumed, *rules, start=12)) == steps[12:]


# A curve, one of several parts, one that moves the momentum, one by evaluations.
TRAINED = {("cosine", 6), ("warmup_stable_decay", 6), ("one_cycle", 0), ("reduce_lr_on_plateau", 6)}


@pytest.mark.parametrize(
    "name, kwargs, warmup_steps, warmup, share", [case for case in CASES if (case[0], case[2]) in TRAINED], ids=case_id
)
def test_training_follows_the_schedule(rates_used, tmp_path, name, kwargs, warmup_steps, warmup, share):
    options = {
        "lr_scheduler_type": name,
        "lr_scheduler_kwargs": kwargs,
        "warmup_steps": warmup_steps,
        "learning_rate": PEAK,
        "gradient_accumulation_steps": 2 if name == "cosine" else 1,
        "num_train_epochs": STEPS // EVERY,
        "eval_strategy": "epoch" if name in BY_EVALUATIONS else "no",
        "compute_metrics": lambda prediction: {"top1": 0.5, "loss": 1.0},
        "save_strategy": "steps",
        "save_steps": 12,
    }
    steps, trainer = rates_used(**options)
    assert steps.rates == pytest.approx(expected_rates(name, warmup, share), rel=1e-9, abs=1e-15)
    assert [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry] == steps.rates
    rest, resumed = rates_used(resume=str(tmp_path / "run" / "checkpoint-12"), **options)
    assert rest.rates == steps.rates[12:]
    assert rest.momenta == steps.momenta[12:]
    assert resumed.state.global_step == STEPS


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "reduce_lr_on_plateau"])
def test_finished_run_that_is_prolonged_follows_its_new_schedule(rates_used, tmp_path, name):
    options = {"lr_scheduler_type": name, "learning_rate": PEAK, "save_strategy": "steps", "save_steps": 4,
               "eval_strategy": "epoch"}  # fmt: skip
    rates_used(max_steps=4, **options)
    uninterrupted, _ = rates_used(folder="uninterrupted", max_steps=8, **options)
    rest, trainer = rates_used(resume=str(tmp_path / "run" / "checkpoint-4"), max_steps=8, **options)
    assert (rest.rates, rest.momenta) == (uninterrupted.rates[4:], uninterrupted.momenta[4:])
    assert trainer.state.global_step == 8 and min(rest.rates) > 0
    # Another learning rate takes effect too.
    options["learning_rate"] = PEAK / 2
    rest, _ = rates_used(resume=str(tmp_path / "run" / "checkpoint-4"), max_steps=8, **options)
    assert rest.rates == pytest.approx([rate / 2 for rate in uninterrupted.rates[4:]])


def test_every_schedule_has_a_closed_form():
    assert {case[0] for case in CASES} == set(schedules.names())


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd"])
def test_one_cycle_moves_the_momentum_against_the_rate(rates_used, optimizer):
    arguments = {"learning_rate": PEAK, "num_train_epochs": STEPS // EVERY, "optim": optimizer}
    if optimizer == "sgd":
        arguments["optim_args"] = "momentum=0.9"
    steps, _ = rates_used(lr_scheduler_type="one_cycle", **arguments)
    expected = [one_cycle(t, 0, start=0.95, peak=0.85, end=0.95) for t in range(STEPS)]
    assert steps.momenta == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "name, text", [("a.yaml", "[[0, 0.1], [0.2, 1], [1, 0]]"), ("b.csv", "step,factor\n0,0.1\n0.2,1\n1,0\n")]
)
def test_points_from_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    steps = schedules.dry_run("points", STEPS, PEAK, arguments={"points": str(tmp_path / name)})
    assert [step.get_last_lr()[0] for step in steps] == pytest.approx([PEAK * page(t, 0) for t in range(STEPS)])
    (tmp_path / f"bad-{name}").write_text("a: [")
    with pytest.raises(ValueError, match=name):
        schedules.try_out("points", PEAK, 0, {"points": str(tmp_path / f"bad-{name}")})


@pytest.mark.parametrize(
    "text",
    ["\ufeff0,0.1\n0.2,1\n1,0\n", "\ufeffshare,factor\r\n0,0.1\r\n0.2,1\r\n1,0\r\n", ".0,0.1\n.2,1\n1.,0\n",
     " 0, 0.1\n+0.2,1\n1,0\n", "\n0,0.1\n0.2,1\n\n1,0\n\n"],
    ids=["byte order mark", "the same with a header", "no leading zero", "spaces", "empty lines"],
)  # fmt: skip
def test_points_of_a_table_are_all_read(tmp_path, monkeypatch, text):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "points.csv").write_text(text, encoding="utf-8", newline="")
    for file in (str(tmp_path / "points.csv"), "~/points.csv"):
        steps = schedules.dry_run("points", STEPS, PEAK, arguments={"points": file})
        assert [step.get_last_lr()[0] for step in steps] == pytest.approx([PEAK * page(t, 0) for t in range(STEPS)])


@pytest.mark.parametrize("optimizer", ["adafactor", "adagrad"])
def test_one_cycle_of_an_optimizer_without_momentum(rates_used, optimizer):
    arguments = {"lr_scheduler_type": "one_cycle", "learning_rate": PEAK, "optim": optimizer}
    steps, _ = rates_used(num_train_epochs=STEPS // EVERY, **arguments)
    assert steps.rates == pytest.approx([PEAK * one_cycle(t, 0) for t in range(STEPS)])
    with pytest.raises(ValueError, match="one_cycle does not suit this optimizer: .* momentum"):
        rates_used(lr_scheduler_kwargs={"cycle_momentum": True}, **arguments)


# Refusals


@pytest.mark.parametrize(
    "name, kwargs, message",
    [
        ("cosin", {}, "'cosin'.*" + ".*".join(schedules.names())),
        ("constant", {"wrong": 1}, "constant .*wrong.* none"),
        ("step", {"wrong": 1}, "step .*wrong.* milestones, gamma"),
        ("one_cycle", {"wrong": 1}, "one_cycle .*wrong.* pct_start, .*div_factor, final_div_factor"),
        ("reduce_lr_on_plateau", {"wrong": 1}, "plateau .*wrong.* factor, patience, threshold, cooldown, min_lr"),
        *(("reduce_lr_on_plateau", {"factor": value}, "factor must") for value in (1, 0, -1)),
        *(("reduce_lr_on_plateau", {name: -1e-3}, f"{name} must") for name in ("patience", "cooldown", "min_lr")),
        ("step", {"gamma": -1, "milestones": [5000]}, "gamma must be from 0 to 1"),
        ("step", {"gamma": 0, "milestones": [0]}, "learning rate 0 at every step"),
        ("cosine", {"num_cycles": math.nan}, "not valid JSON"),
        ("polynomial", {"lr_end": -1e-4}, "which is impossible"),
        ("polynomial", {"power": -1}, "does not work|which is impossible|above the peak"),
        ("exponential", {"final_factor": -1}, "final_factor must be above 0 and at most 1, got -1"),
        ("exponential", {"final_factor": 0}, "final_factor must be above 0 and at most 1, got 0"),
        ("one_cycle", {"div_factor": -25}, "which is impossible"),
        ("points", {"points": []}, "positions of points must rise"),
        ("points", {"points": [[0, 1], [0, 2]]}, "positions of points must rise"),
        ("points", {"points": [[0, 1], [1, -1]]}, "which is impossible"),
        ("points", {"points": [1, 2]}, "points must have rows of two numbers"),
        ("points", {"points": "nowhere.csv"}, "nowhere.csv cannot be read: No such file"),
        ("greedy", {"smooth": True, "window_size": 0}, "window_size must be at least 1, got 0"),
        ("one_cycle", {"base_momentum": 2, "max_momentum": 3}, "_momentum must be from 0 to below 1, got"),
        # Values of another kind.
        ("one_cycle", {"max_momentum": "0.9"}, "max_momentum of one_cycle must be a number, got '0.9'"),
        ("one_cycle", {"three_phase": 1}, "three_phase of one_cycle must be true or false, got 1"),
        ("one_cycle", {"anneal_strategy": "cosine"}, "anneal_strategy of one_cycle must be one of cos, linear"),
        ("cosine", {"num_cycles": True}, "num_cycles of cosine must be a number, got True"),
        ("cosine_with_min_lr", {"min_lr": None}, "min_lr of cosine_with_min_lr must be a number, got None"),
        ("warmup_stable_decay", {"decay_type": ["linear"]}, "decay_type .* must be one of linear, cosine, 1-sqrt"),
        ("step", {"milestones": 0.5}, "milestones of step must be a list of numbers, got 0.5"),
        ("step", {"milestones": ["0.5"]}, "milestones of step must be a list of numbers"),
        ("points", {"points": 1}, "points of points must be a list of pairs or the name of a file, got 1"),
        ("reduce_lr_on_plateau", {"patience": "3"}, "patience of reduce_lr_on_plateau must be a number, got '3'"),
        ("greedy", {"smooth": "yes"}, "smooth of greedy must be true or false, got 'yes'"),
        ("greedy", {"factor": 1.5}, "factor must be above 0 and below 1"),
        # The rate would rise above its peak.
        ("cosine_with_min_lr", {"min_lr": 0.1}, "min_lr.* above the peak 0.05"),
        ("cosine_with_min_lr", {"min_lr_rate": 10}, "min_lr_rate.* above the peak 0.05"),
        ("cosine_warmup_with_min_lr", {"min_lr": 0.1}, "min_lr.* above the peak 0.05"),
        ("cosine_warmup_with_min_lr", {"min_lr_rate": 2}, "min_lr_rate.* above the peak 0.05"),
        ("polynomial", {"lr_end": 0.1}, "lr_end"),
        ("warmup_stable_decay", {"min_lr_ratio": 2}, "min_lr_ratio.* 0.1, above the peak 0.05"),
        ("one_cycle", {"div_factor": 0.5}, "div_factor.* 0.1, above the peak 0.05"),
        ("step", {"milestones": [5000], "gamma": 2}, "gamma must be from 0 to 1"),
        ("exponential", {"final_factor": 2}, "final_factor must be above 0 and at most 1"),
        ("points", {"points": [[0, 1], [5000, 2]]}, "shares of the peak learning rate, at most 1"),
        *((name, {"min_lr": 0.1}, "peak learning rate 0.05 is not within min_lr 0.1") for name in BY_EVALUATIONS),
        ("greedy", {"max_lr": 0.01}, "peak learning rate 0.05 is not within max_lr 0.01"),
    ],
)
def test_arguments_that_give_no_learning_rates(make_args, name, kwargs, message):
    # However long the warmup is.
    for warmup in (0, 500) if name in WITH_WARMUP else (0,):
        with pytest.raises(ValueError, match=message):
            make_args(
                lr_scheduler_type=name, lr_scheduler_kwargs=kwargs, eval_strategy="epoch", warmup_steps=warmup,
                learning_rate=PEAK,
            )  # fmt: skip


def test_rates_are_compared_with_the_peak_of_the_run(make_args):
    options = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": PEAK / 4}}
    make_args(learning_rate=PEAK, **options)
    first = {"lr_scheduler_type": "cosine_warmup_with_min_lr", "lr_scheduler_kwargs": {"warmup_lr_rate": 2}}
    with pytest.raises(ValueError, match="0.1, above the peak 0.05"):
        make_args(learning_rate=PEAK, warmup_steps=5, **first)
    with pytest.raises(ValueError, match="above the peak 0.00156"):
        make_args(learning_rate=PEAK, lr_scaling="linear", **options)


@pytest.mark.parametrize(
    "name, instead", [("constant", "constant_with_warmup"), ("one_cycle", "pct_start"), ("points", "points")]
)
def test_warmup_where_there_is_none(make_args, name, instead):
    with pytest.raises(ValueError, match=instead):
        make_args(lr_scheduler_type=name, warmup_steps=5)


@pytest.mark.parametrize("name", schedules.names())
@pytest.mark.parametrize("total", [1, 2, 3])
def test_a_run_however_short_learns_something(name, total):
    rates = [scheduler.get_last_lr()[0] for scheduler in schedules.dry_run(name, total, PEAK)]
    assert len(rates) == total and max(rates) > 0


@pytest.mark.parametrize("name", schedules.names())
def test_fit_of_a_run_however_short_or_long_is_judged(name):
    for total in (1, 2, 3, 10**9):
        assert isinstance(schedules.find_misfit(name, total, PEAK, evaluations=range(1, total)), str | None)
    if name in WITH_WARMUP:
        assert (
            "its warmup takes 5, the LR reaches at most 0%" in schedules.find_misfit(name, 1, PEAK, 5)
            or "min_lr" in name
        )


@pytest.mark.parametrize("name", BY_EVALUATIONS)
def test_evaluations_are_needed(make_args, name):
    with pytest.raises(ValueError, match="eval_strategy"):
        make_args(lr_scheduler_type=name, eval_strategy="no")


# A schedule that does not fit the run: STEPS steps, evaluated after each EVERY steps

MISFITS = [
    ("cosine", {}, {"warmup_steps": 500}, "its warmup takes 500, the LR reaches at most 3.8% of its peak"),
    ("constant_with_warmup", {}, {"warmup_steps": 20}, "its warmup takes 20"),
    ("rex", {}, {"warmup_steps": 500}, "its warmup takes 500, the LR reaches at most 3.8% of its peak"),
    ("step", {"milestones": [100, 150]}, {}, "it never comes to milestone 100 and 150, the LR never falls"),
    ("step", {"milestones": [5, 20]}, {}, "it never comes to milestone 20"),
    ("step", {"gamma": 0}, {}, "the LR is 0 for the last 70% of them"),
    ("warmup_stable_decay", {"num_decay_steps": 0.2}, {}, "the LR never falls"),
    ("warmup_stable_decay", {"num_decay_steps": 50}, {},
     "warmup, constant part and decay take 51, the LR reaches at most 32% of its peak"),
    ("warmup_stable_decay", {"num_stable_steps": 50}, {},
     "warmup, constant part and decay take 55, the LR never falls"),
    ("warmup_stable_decay", {"num_stable_steps": 5}, {}, "the LR is 0 for the last 50% of them"),
    ("points", {"points": [[0, 1], [100, 0]]}, {}, "the last point is at step 100"),
    ("points", {"points": [[0, 1], [10, 0]]}, {}, "the LR is 0 for the last 50% of them"),
    ("cosine_with_min_lr", {"min_lr_rate": 1}, {}, "the LR never falls"),
    ("reduce_lr_on_plateau", {}, {}, "the LR cannot change in the 3 evaluations between its warmup and its last step"),
    ("reduce_lr_on_plateau", {"patience": 1, "min_lr": PEAK}, {}, "cannot change in the 3 evaluations"),
    ("reduce_lr_on_plateau", {"patience": 1}, {"warmup_steps": 10}, "cannot change in the 2 evaluations"),
    ("reduce_lr_on_plateau", {"patience": 1}, {"eval_delay": 3}, "cannot change in the 1 evaluation between"),
    ("reduce_lr_on_plateau", {"patience": 1}, {"eval_strategy": "steps", "eval_steps": 0.5},
     "cannot change in the 1 evaluation between"),
    ("reduce_lr_on_plateau", {"patience": 0}, {"early_stopping_patience": 1},
     "early stopping (patience 1) comes before a cut (patience 0)"),
    ("greedy", {"patience": 3}, {}, "cannot change in the 3 evaluations"),
]  # fmt: skip


@pytest.mark.parametrize("name, kwargs, options, message", MISFITS, ids=case_id)
def test_schedule_that_does_not_fit_the_run_is_reported(make_trainer, name, kwargs, options, message):
    evaluated = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    if options.get("eval_strategy") == "steps":
        evaluated |= {"save_strategy": "steps", "save_steps": 0.5}
    trainer = make_trainer(
        lr_scheduler_type=name, lr_scheduler_kwargs=kwargs, learning_rate=PEAK, num_train_epochs=STEPS // EVERY,
        **(evaluated | options),
    )  # fmt: skip
    misfit = trainer.find_schedule_misfit()
    assert misfit.startswith(f"{name} does not fit a run of {STEPS} steps: ") and message in misfit


@pytest.mark.parametrize("name, kwargs, warmup_steps", [case[:3] for case in CASES], ids=case_id)
@pytest.mark.parametrize("total", [STEPS, 100_000])
def test_schedule_that_fits_the_run_is_not_reported(name, kwargs, warmup_steps, total):
    evaluations = range(total // 10, total, total // 10)
    assert schedules.find_misfit(name, total, PEAK, warmup_steps, kwargs, evaluations) is None
