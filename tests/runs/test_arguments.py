import json
import pickle
from dataclasses import dataclass, field
from typing import Literal

import pytest

from hf_cifar_resnet.runs.arguments import RunArguments

GIVEN = {
    "depth": 18,
    "learning_rate": 1e-3,
    "bf16": False,
    "image_mean": [0.5, 0.25, 0.1],
    "lr_scheduler_kwargs": {"milestones": [0.5, 0.75]},
    "output_dir": "~/runs",
}


def test_equal_whatever_the_order():
    arguments = RunArguments(GIVEN)
    same = RunArguments(dict(reversed(GIVEN.items())))
    assert arguments == same and len({arguments, same}) == 1
    assert arguments != arguments.replace(depth=34)


def test_replace_changes_one_argument_alone():
    arguments = RunArguments(GIVEN)
    assert arguments.replace(depth=None, seed=7).given == {
        name: value for name, value in [*GIVEN.items(), ("seed", 7)] if name != "depth"
    }
    assert arguments.given == GIVEN


def test_nothing_changes_it():
    source = {"image_mean": [0.5, 0.5, 0.5]}
    arguments = RunArguments(source)
    source["image_mean"].append(1)
    assert arguments.get("image_mean") == [0.5, 0.5, 0.5]
    with pytest.raises(TypeError):
        arguments.given["seed"] = 1
    with pytest.raises(AttributeError):
        arguments.given = {}


def test_another_process_gets_equal_ones():
    arguments = RunArguments(GIVEN)
    assert pickle.loads(pickle.dumps(arguments)) == arguments


@pytest.mark.parametrize(
    "recipe, given, merged",
    [
        ({"seed": 1, "depth": 18}, {"seed": 2}, {"seed": 2, "depth": 18}),
        ({"depth": 50}, {"block": "basic", "stage_depths": [1]}, {"block": "basic", "stage_depths": [1]}),
        ({"block": "basic", "stage_depths": [1], "stage_widths": [8]}, {"depth": 18}, {"depth": 18}),
        ({"depth": 50, "zero_init_residual": True, "dropout": 0.1}, {"model_name_or_path": "ann/model"},
         {"model_name_or_path": "ann/model", "dropout": 0.1}),
        ({"model_name_or_path": "ann/model"}, {"depth": 18}, {"depth": 18}),
        ({"eval_strategy": "steps", "eval_steps": 9.0}, {"eval_strategy": "epoch"}, {"eval_strategy": "epoch"}),
        ({"per_device_train_batch_size": 8}, {"global_batch_size": 32}, {"global_batch_size": 32}),
        ({"optim": "sgd", "optim_args": "a=1"}, {"optim": "adamw_torch"}, {"optim": "adamw_torch"}),
        ({"optim": "sgd", "optim_args": "a=1"}, {"optim": "sgd"}, {"optim": "sgd", "optim_args": "a=1"}),
        ({"lr_scheduler_type": "step", "lr_scheduler_kwargs": {"gamma": 0.1}}, {"lr_scheduler_type": "cosine"},
         {"lr_scheduler_type": "cosine"}),
    ],
)  # fmt: skip
def test_over_a_recipe(recipe, given, merged):
    assert RunArguments(given).over(RunArguments(recipe)) == RunArguments(merged)


def test_run_record():
    arguments = RunArguments({**GIVEN, "hub_token": "hf_secret"})
    written = json.dumps({"given": arguments.to_record()})
    assert "secret" not in written
    assert RunArguments(json.loads(written)["given"]) == RunArguments(GIVEN)


@dataclass
class Arguments:
    rate: float = 0.5
    count: int | None = None
    name: str = "a"
    means: list[float] = field(default_factory=list)
    on: bool = False
    kind: Literal["x", "y"] = "x"
    extra: dict | str | None = None


def test_build_keeps_defaults_and_ignores_the_arguments_of_others():
    built = RunArguments({"rate": 1, "means": [0, 1], "extra": {"a": 1}, "seed": 3}).build(Arguments)
    assert built == Arguments(rate=1.0, means=[0.0, 1.0], extra={"a": 1})
    assert isinstance(built.rate, float)


@pytest.mark.parametrize(
    "name, value",
    [("rate", "1"), ("rate", True), ("rate", [1.0]), ("count", 1.5), ("count", "1"), ("count", True), ("name", 1),
     ("means", 0.5), ("means", ["a"]), ("on", 1), ("on", "yes"), ("kind", "z"), ("extra", [1])],
)  # fmt: skip
def test_build_refuses_a_value_of_another_type(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        RunArguments({name: value}).build(Arguments)


def test_command_line():
    assert RunArguments(
        {"depth": 18, "learning_rate": 1e-5, "bf16": False, "image_mean": [0.5, 1.0], "lr_scheduler_kwargs": {"a": [1]},
         "output_dir": "~/my runs", "max_steps": -1, "hub_token": "hf_secret"}
    ).to_command_line() == [
        "--depth", "18", "--learning_rate", "1e-05", "--bf16", "false", "--image_mean", "0.5", "1.0",
        "--lr_scheduler_kwargs", '{"a": [1]}', "--output_dir", "~/my runs", "--max_steps=-1",
    ]  # fmt: skip
