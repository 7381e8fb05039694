"""What a command line gives: [`RunArguments`], before anything is resolved."""

import contextlib
import io
import json
import re
from functools import cache

import pytest
from run_fixtures import RECORD

from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.commands.parser import (
    CifarArgumentParser,
    parse_arguments,
    parse_value,
    parse_with_run_record,
    recipe_names,
)
from hf_cifar_resnet.data.arguments import DataArguments
from hf_cifar_resnet.runs.arguments import RunArguments
from hf_cifar_resnet.training.arguments import resolve

LINES = [
    "",
    "--depth 18 --learning_rate 1e-05 --bf16 false --fp16",
    "--image_mean 0.5 0.25 0.1 --image_std 1 1 1",
    '--lr_scheduler_type step --lr_scheduler_kwargs {"milestones":[0.5,0.75]}',
    "--no_load_best_model_at_end --max_steps -1 --eval_split none --validation_fraction 0",
    "--report_to tensorboard,trackio --output_dir=~/runs --warmup_steps 500",
    *(f"--config {name}" for name in recipe_names()),
]


@pytest.mark.parametrize("line", LINES)
def test_arguments_survive_a_command_line_and_a_record(line):
    given = parse_arguments(line.split())
    assert parse_arguments(given.to_command_line()) == given
    assert RunArguments(json.loads(json.dumps(given.to_record()))) == given


@pytest.mark.parametrize(
    "line, same",
    [
        ("--learning_rate 1e-3", "--learning_rate=0.001"),
        ("--max_grad_norm 0", "--max_grad_norm 0.0"),
        ("--bf16", "--bf16 yes"),
        ("--seed 7 --depth 18", "--depth 18 --seed 7"),
        ('--lr_scheduler_kwargs {"a":1}', '--lr_scheduler_kwargs={"a":1.0}'),
    ],
)
def test_equal_values_make_equal_arguments(line, same):
    assert parse_arguments(line.split()) == parse_arguments(same.split())


def test_only_what_was_given():
    assert parse_arguments(["--seed", "7"]).given == {"seed": 7}


def test_home_is_expanded_where_the_run_is_trained(monkeypatch, tmp_path):
    given = parse_arguments(["--output_dir=~/runs"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given.get("output_dir") == "~/runs"
    assert resolve(given).training.output_dir == f"{tmp_path}/runs"


def test_arguments_can_be_resolved_again_after_a_replacement():
    given = parse_arguments("--use_cpu --global_batch_size 64".split())
    assert resolve(given).training.per_device_train_batch_size == 64
    larger = given.replace(global_batch_size=128)
    assert resolve(larger).training.per_device_train_batch_size == 128
    assert given.get("global_batch_size") == 64


def test_unknown_argument_of_a_record():
    with pytest.raises(ValueError, match="unknown argument lerning_rate"):
        resolve(RunArguments({"lerning_rate": 0.1}))


@pytest.mark.parametrize(
    "name, text, value",
    [("learning_rate", "1e-3", 0.001), ("bf16", "no", False), ("stage_depths", "2", [2]), ("optim", "sgd", "sgd"),
     ("lr_scheduler_kwargs", '{"gamma": 0.1}', {"gamma": 0.1}), ("max_steps", "-1", -1)],
)  # fmt: skip
def test_value(name, text, value):
    assert parse_value(name, text) == value


@pytest.mark.parametrize("name, text", [("learning_rate", "fast"), ("seed", "1.5"), ("eval_split", "x"), ("x", "1")])
def test_wrong_value(name, text):
    with pytest.raises(ValueError, match=name):
        parse_value(name, text)


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("epochs", "num_train_epochs"), ("lr", "learning_rate"), ("batch_size", "global_batch_size"),
        ("wd", "weight_decay"), ("model", "model_name_or_path"), ("dataset", "dataset_name"),
        ("scheduler", "lr_scheduler_type"), ("optimizer", "optim"), ("workers", "dataloader_num_workers"),
        ("output", "output_dir"), ("out-dir=x", "output_dir"), ("resume", "resume_from_checkpoint"),
        ("max_epochs", "num_train_epochs"), ("base_lr", "learning_rate"),
        ("train_batch_size", "per_device_train_batch_size"), ("seeds", "seed"),
        ("patience", "early_stopping_patience"), ("lerning_rate", "learning_rate"), ("wieght_decay", "weight_decay"),
    ],
)  # fmt: skip
def test_unknown_flag_suggests_the_one_that_is_meant(typed, meant):
    with pytest.raises(ValueError, match=rf"^unknown argument --{typed}; did you mean --{meant}\?$"):
        parse_arguments([f"--{typed}", "3"])


@pytest.mark.parametrize("typed", ["arch", "verbose", "x"])
def test_unknown_flag_that_is_like_none(typed):
    with pytest.raises(ValueError, match=f"^unknown argument --{typed}; --help lists all$"):
        parse_arguments([f"--{typed}", "3"])


# Help


@pytest.fixture(scope="module")
def helps():
    """What `--help` of a command prints, by lines of an option each, without its name."""

    @cache
    def helps(command):
        printed = io.StringIO()
        with pytest.raises(SystemExit), contextlib.redirect_stdout(printed):
            cli([command, "--help"])
        text = " ".join(printed.getvalue().split())
        return {words.split()[0]: words for words in re.split(r" (?=--\w)", text.split("options:")[1])}

    return helps


@pytest.mark.parametrize(
    "command, flag, ends",
    [
        ("evaluate", "--dataset_name", "(default: as in the run)"),
        ("demo", "--split_seed", "(default: as in the run)"),
        ("evaluate", "--batch_size", "images at a time (default: 256)"), ("predict", "--top_k", "image (default: 5)"),
        ("evaluate", "--precision", "(default: that of the run)"), ("demo", "--no_push", "folder of the Space"),
        ("evaluate", "--json", "to this file"), ("train", "--depth", "50 if not given"),
        ("train", "--dataset_name", "(default: uoft-cs/cifar100)"),
        ("train", "--color_jitter", "(default: 0.2 0.2 0.2 0.02)"),
        ("train", "--load_best_model_at_end", "(default: True)"), ("study", "--seeds", "(default: 42)"),
        ("study", "--tuning_seeds", "(default: 0)"), ("study", "--jobs", "(default: 1; on Slurm all)"),
        ("study", "--output_dir", "(default: studies/schedules)"),
    ],
)  # fmt: skip
def test_help_states_the_default_that_holds(helps, command, flag, ends):
    assert helps(command)[flag].endswith(ends)


@pytest.mark.parametrize("command", ["train", "evaluate", "demo", "study", "find-lr", "benchmark"])
def test_help_shows_one_spelling_and_one_default(helps, command):
    for flag, text in helps(command).items():
        assert "-" not in flag[2:] and text.count("default: ") <= 1 and "default: None" not in text


def test_flag_with_dashes():
    assert parse_arguments(["--learning-rate", "0.5", "--no-load-best-model-at-end"]) == parse_arguments(
        ["--learning_rate", "0.5", "--no_load_best_model_at_end"]
    )


# A checkpoint's record


@pytest.fixture
def parse_checkpoint(tmp_path):
    """Parses the command line of a command on a checkpoint whose `run.json` has this content."""

    def parse(record, line=""):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "run.json").write_text(json.dumps(RECORD | record))
        return parse_with_run_record(CifarArgumentParser(DataArguments), [str(tmp_path), *line.split()])[1]

    return parse


RECORDS = [
    # Where a later version has another default, what was given alone would mean other data.
    {"given": {"seed": 1}, "data_arguments": {"dataset_name": "shapes100", "max_eval_samples": 50}},
    {"data_arguments": {"dataset_name": "shapes100", "max_eval_samples": 50, "image_mean": None}},
]


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize(
    "line, name, samples",
    [
        ("", "shapes100", 50),
        ("--max_eval_samples 9", "shapes100", 9),
        ("--dataset_name shapes100", "shapes100", 50),
        ("--dataset_name uoft-cs/cifar10", "uoft-cs/cifar10", None),
    ],
)
def test_data_of_a_checkpoint(parse_checkpoint, record, line, name, samples):
    data_args = parse_checkpoint(record, line)
    assert (data_args.dataset_name, data_args.max_eval_samples) == (name, samples)


def test_record_without_data(parse_checkpoint):
    assert parse_checkpoint({"given": {"seed": 1}}) is None


@pytest.mark.parametrize(
    "record",
    [{"given": [1]}, {"data_arguments": {"image_size": "32"}}, {"data_arguments": {"image_mean": 0.5}},
     {"data_arguments": "shapes100"}, {"data_arguments": {"max_eval_samples": 1.5}}, {"precision": "int8"}],
)  # fmt: skip
def test_damaged_record_is_named(parse_checkpoint, record):
    with pytest.raises(ValueError, match=r"run\.json"):
        parse_checkpoint(record)
