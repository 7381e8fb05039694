"""Each schedule is one entry, from which the command line, the pictures and the documentation have their facts."""

import inspect
from pathlib import Path

import pytest
import torch
import transformers
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from transformers import SchedulerType
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

import hf_cifar_resnet
from hf_cifar_resnet import schedules
from hf_cifar_resnet.cli import main

PACKAGE = Path(hf_cifar_resnet.__file__).parent
SPECS = [schedules.get(name) for name in schedules.names()]


def make_optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def test_every_schedule_of_transformers_is_there_under_its_name():
    assert {kind.value for kind in SchedulerType} <= set(schedules.names())
    assert schedules.get(SchedulerType.COSINE) is schedules.get("cosine")
    with pytest.raises(ValueError, match="unknown lr_scheduler_type 'cosin': choose one of constant, .*warmup_stable"):
        schedules.get("cosin")


# What is given by the training, and no argument of a schedule.
GIVEN = {
    "optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "mode", "threshold_mode", "verbose", "max_lr",
    "total_steps", "epochs", "steps_per_epoch",
}  # fmt: skip
UPSTREAM = {kind.value: function for kind, function in TYPE_TO_SCHEDULER_FUNCTION.items()} | {
    "one_cycle": OneCycleLR,
    "reduce_lr_on_plateau": ReduceLROnPlateau,
    "greedy": transformers.GreedyLR,
}


@pytest.mark.parametrize("name", UPSTREAM)
def test_arguments_are_those_of_upstream(name):
    theirs = inspect.signature(UPSTREAM[name]).parameters
    arguments = {argument for argument in theirs if argument not in GIVEN or (name, argument) == ("greedy", "max_lr")}
    assert set(schedules.get(name).arguments) == arguments


def test_labels_tell_all_schedules_apart():
    assert len({spec.label for spec in SPECS}) == len(SPECS)
    assert schedules.get("cosine_with_warmup").label == "cosine with warmup"


@pytest.mark.parametrize("name", [spec.name for spec in SPECS if spec.takes_warmup])
def test_the_same_warmup_for_every_schedule(name):
    """As `constant_with_warmup` has it; the one schedule that begins above 0 says so by its name."""
    scheduler = schedules.create(name, make_optimizer(), total_steps=100, warmup_steps=0.1)
    expected = schedules.create("constant_with_warmup", make_optimizer(), total_steps=100, warmup_steps=10)
    shift = 1 if name == "cosine_warmup_with_min_lr" else 0
    assert schedules.rates_at(scheduler, range(10)) == pytest.approx(
        schedules.rates_at(expected, range(shift, 10 + shift))
    )


def test_schedules_without_such_a_warmup():
    assert [spec.name for spec in SPECS if not spec.takes_warmup] == ["constant", "one_cycle", "points"]
    assert {spec.name: spec.own_warmup for spec in SPECS if spec.own_warmup} == {
        "one_cycle": "pct_start",
        "points": "points",
    }


# The command `schedules` and the documentation


def describe(spec):
    """A row of the table in the README."""
    author, url = spec.source.rsplit(", ", 1)
    arguments = ", ".join(f"`{argument}`" for argument in spec.arguments)
    return f"| `{spec.name}` | {spec.description} | {spec.describe_warmup()} | {arguments} | [{author}]({url}) |"


def test_table_of_the_readme_is_that_of_the_registry():
    lines = (PACKAGE / "schedules" / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("| `")] == [describe(spec) for spec in SPECS]
    assert f"takes {len(SPECS)} names" in (PACKAGE.parent / "README.md").read_text(encoding="utf-8")


def test_list_prints_what_a_schedule_takes(capsys):
    main(["schedules", "--list"])
    printed = capsys.readouterr().out
    assert all(f"{spec.name} ({spec.label})\n" in printed for spec in SPECS)
    main(["schedules", "--list", "step"])
    assert capsys.readouterr().out == (
        "step (step decay)\n"
        "  learning rate: times 0.2 at 30%, 60% and 80% of the steps\n"
        "  warmup: warmup_steps, by default none\n"
        "  lr_scheduler_kwargs: milestones, gamma\n"
        "  source: Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146\n"
    )


@pytest.mark.parametrize(
    "names, message",
    [
        ([], "lr_scheduler_kwargs has gama, which no schedule takes; --list prints what each takes"),
        (["step"], "step does not take gama in lr_scheduler_kwargs; it takes: milestones, gamma"),
        (["step", "cosine"], "lr_scheduler_kwargs has gama, which none of step, cosine takes"),
    ],
)
def test_arguments_that_no_schedule_takes_are_refused(refused, names, message):
    assert message in refused("schedules", *names, "--lr_scheduler_kwargs", '{"gama": 0.1}')
