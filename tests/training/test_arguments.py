import json
import os
from dataclasses import replace

import pytest
from run_fixtures import RECORD

from hf_cifar_resnet.checkpoints.changes import changed_arguments
from hf_cifar_resnet.commands.parser import (
    CifarArgumentParser,
    parse_arguments,
    parse_with_run_record,
    recipe_names,
)
from hf_cifar_resnet.data.arguments import AUGMENTATIONS, DataArguments
from hf_cifar_resnet.data.policies import build_policy
from hf_cifar_resnet.processes import warn_once
from hf_cifar_resnet.runs.record import RunRecord
from hf_cifar_resnet.training.arguments import CifarTrainingArguments, resolve


def parse_argv(argv):
    arguments = resolve(parse_arguments(argv))
    return arguments.model, arguments.data, arguments.training


@pytest.fixture
def parse():
    """The parsed dataclasses of a command line in one string."""
    return lambda line="", *more: parse_argv(["--use_cpu", *line.split(), *more])


@pytest.fixture
def parse_yaml(tmp_path):
    def parse(text, line=""):
        (tmp_path / "recipe.yaml").write_text(text)
        return parse_argv(["--use_cpu", "--config", str(tmp_path / "recipe.yaml"), *line.split()])

    return parse


# Recipes and the command line


@pytest.mark.parametrize("name", recipe_names())
def test_built_in_recipe_parses(parse, name):
    assert len(parse(f"--config {name}")) == 3


@pytest.mark.parametrize(
    "line",
    ["--config quickstart --learning_rate 0.5", "--learning_rate 0.5 --config quickstart",
     "--config=quickstart --learning_rate=0.5", "--config quickstart --learning-rate 0.5"],
)  # fmt: skip
def test_command_line_wins_over_the_recipe(parse, line):
    model_args, data_args, args = parse(line)
    assert args.learning_rate == 0.5
    assert (model_args.stage_widths, data_args.dataset_name, args.global_batch_size) == ([16, 32, 64], "shapes100", 32)


@pytest.mark.parametrize(
    "recipe, line, kept",
    [
        ("depth: 50\n", "--block basic --stage_depths 1 1", {"depth": None, "block": "basic"}),
        ("block: basic\nstage_depths: [1]\n", "--depth 18", {"depth": 18, "block": None, "stage_depths": None}),
        ("per_device_train_batch_size: 8\n", "--global_batch_size 32", {"global_batch_size": 32}),
    ],
)
def test_flags_win_over_the_recipe(parse_yaml, recipe, line, kept):
    given = {name: value for part in parse_yaml(recipe, line) for name, value in vars(part).items()}
    assert given.items() >= kept.items()


def test_values_of_a_yaml_file(parse_yaml):
    model_args, data_args, args = parse_yaml(
        "learning_rate: 1e-3  # a string in YAML 1.1\n"
        'weight_decay: "2e-4"\n'
        "zero_init_residual: true\n"
        "load_best_model_at_end: false\n"
        "block: basic\n"
        "stage_depths: [1, 2]\n"
        "image_mean: [0.5, 0.25, 1e-1]\n"
        "image_std: [1, 1, 1]\n"
        "lr_scheduler_type: step\n"
        "lr_scheduler_kwargs: {milestones: [0.5, 0.75], gamma: 0.1}\n"
    )
    assert (args.learning_rate, args.weight_decay, args.load_best_model_at_end) == (1e-3, 2e-4, False)
    assert (model_args.block, model_args.stage_depths, model_args.zero_init_residual) == ("basic", [1, 2], True)
    assert (data_args.image_mean, data_args.image_std) == ([0.5, 0.25, 0.1], [1, 1, 1])
    assert args.lr_scheduler_kwargs == {"milestones": [0.5, 0.75], "gamma": 0.1}


def test_no_is_a_word_where_it_is_a_value(parse_yaml):
    args = parse_yaml("eval_strategy: no\nsave_strategy: no\nload_best_model_at_end: no\nbf16: yes\nfp16: False\n")[2]
    assert (args.eval_strategy, args.save_strategy, args.load_best_model_at_end) == ("no", "no", False)
    assert (args.bf16, args.fp16) == (True, False)


FORMER_POLICIES = [
    ("seed", "crop_flip_jitter"), ("notebook", "crop_flip_hole_or_noise"), ("crop", "crop_flip"),
    ("strong", "mild_trivial_cutout"),
]  # fmt: skip


@pytest.fixture
def warned(caplog):
    """The warnings, which are logged once a process."""
    warn_once.cache_clear()
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("former, present", FORMER_POLICIES)
@pytest.mark.parametrize("given", ["command line", "recipe", "run record", "Python"])
def test_former_name_of_a_policy(parse, parse_yaml, tmp_path, warned, given, former, present):
    if given == "command line":
        data_args = parse(f"--augmentation {former}")[1]
    elif given == "recipe":
        data_args = parse_yaml(f"augmentation: {former}\n")[1]
    elif given == "run record":
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "run.json").write_text(json.dumps(RECORD | {"data_arguments": {"augmentation": former}}))
        data_args = parse_with_run_record(CifarArgumentParser(DataArguments), [str(tmp_path)])[1]
    else:
        data_args = DataArguments(augmentation=former)
    assert data_args.augmentation == present
    assert warned() == [f"the augmentation policy {former} is called {present} now; the former name still works"]
    DataArguments(augmentation=former)
    assert len(warned()) == 1
    assert repr(build_policy(former)) == repr(build_policy(present))


def test_former_name_of_the_notebooks_recipe(parse, warned):
    former = parse("--config seed --seed 7")
    assert warned() == ["the recipe seed is called notebook now; the former name still works"]
    assert [vars(each) for each in former[:2]] == [vars(each) for each in parse("--config notebook")[:2]]
    assert (former[2].weight_decay, former[2].seed) == (1e-4, 7) and len(warned()) == 1
    assert "seed" not in recipe_names() and not set(dict(FORMER_POLICIES)) & set(AUGMENTATIONS)


@pytest.mark.parametrize(
    "before, changed", [("seed", {}), ("crop", {"augmentation": ["crop_flip", "crop_flip_jitter"]})]
)
def test_former_name_is_no_change_when_a_run_is_resumed(parse, tmp_path, before, changed):
    (tmp_path / "run.json").write_text(json.dumps(RECORD | {"data_arguments": {"augmentation": before}}))
    former = RunRecord.read(tmp_path / "run.json")
    assert changed_arguments(former, replace(former, data_arguments=vars(parse()[1]))) == changed


@pytest.mark.parametrize(
    "typed, kept", [("", "momentum=0.9"), ("--optim sgd", "momentum=0.9"), ("--optim adamw_torch", None)]
)
def test_arguments_of_an_optimizer_go_with_it(parse_yaml, typed, kept):
    assert parse_yaml("optim: sgd\noptim_args: momentum=0.9\n", typed)[2].optim_args == kept


@pytest.mark.parametrize(
    "text, message",
    [
        ("lerning_rate: 1\n", "did you mean --learning_rate?"),
        ("zzz: 1\n", "unknown argument zzz"),
        ("config: seed\n", "config"),
        ("- learning_rate\n", "argument: value"),
        ("", "argument: value"),
        ("learning_rate: [1\n", "not valid YAML"),
        ("learning_rate: fast\n", "fast"),
        ("zero_init_residual: perhaps\n", "perhaps"),
        ("stage_depths: []\n", "stage_depths"),
        ("1: 2\n", "1"),
        ("seed: 1\nlearning_rate: 0.1\nseed: 2\n", 'duplicate key "seed"'),
        ("lr_scheduler_kwargs: {gamma: 1, gamma: 2}\n", 'duplicate key "gamma"'),
        ("learning-rate: 0.1\nlearning_rate: 0.2\n", "twice"),
        ("learning_rate: [1, 2]\n", "learning_rate takes one value, not a list"),
        ("output_dir:\n", "output_dir has no value"),
        ("lr_scheduler_kwargs: {num_cycles: 2026-11-27}\n", "lr_scheduler_kwargs"),
        ("lr_scheduler_kwargs: {num_cycles: .nan}\n", "not valid JSON"),
    ],
)
def test_bad_yaml(parse_yaml, text, message):
    with pytest.raises(ValueError) as refused:
        parse_yaml(text)
    assert message in str(refused.value) and "\n" not in str(refused.value)


# Flags


@pytest.mark.parametrize(
    "line, name, value",
    [
        ("--bf16", "bf16", True),
        ("--bf16 false", "bf16", False),
        ("--bf16 --seed 3", "bf16", True),
        ("--dataloader_persistent_workers --dataloader_num_workers 1", "dataloader_persistent_workers", True),
        ("--load_best_model_at_end false", "load_best_model_at_end", False),
        ("--no_load_best_model_at_end", "load_best_model_at_end", False),
        ("--disable_tqdm", "disable_tqdm", True),
    ],
)
def test_yes_or_no(parse, line, name, value):
    assert getattr(parse(line)[2], name) is value


def test_help_shows_our_groups_first(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(["--help"])
    text = capsys.readouterr().out
    headings = ["\nmodel:", "\ndata:", "\ntraining:", "\nall other arguments of transformers.TrainingArguments:"]
    places = [text.index(heading) for heading in headings]
    assert stopped.value.code == 0 and places == sorted(places)
    flags = ["--stem", "--dataset_name", "--lr_scaling", "--push_to_hub"]
    for flag, start, end in zip(flags, places, [*places[1:], len(text)], strict=True):
        assert f"\n  {flag}" in text[start:end]
    assert "--config" in text[places[2] : places[3]]


BAD = """
    --lr_scheduler_kwargs [1]
    --learning_rate nan
    --learning_rate
    --global_batch_size 0
    --gradient_accumulation_steps 0
    --per_device_train_batch_size -1
    --per_device_eval_batch_size 0
    --weight_decay -1
    --max_grad_norm -1
    --warmup_steps -1
    --early_stopping_patience 3 --load_best_model_at_end false
    --eval_strategy steps
    --eval_strategy never
    --bf16 --fp16
    --fp16
    --bf16 maybe
    --optim nope
    --image_size 0
    --image_mean 0.5 0.5 --image_std 1 1 1
    --image_mean 0 0 0 --image_std 0 1 1
    --stem round
    --block round
    --augmentation nope
    --eval_split train
    --config /
    --config
    --lr_scheduler_type reduce_lr_on_plateau --lr_scheduler_kwargs {"patience":"x"}
    --lr_scheduler_type step --lr_scheduler_kwargs {"gamma":"x"}
    --lr_scheduler_type polynomial --lr_scheduler_kwargs {"lr_end":1}
    --learning_rate inf
    --early_stopping_patience 0
    --seed 99999999999999
    --dataloader_num_workers -1
    --image_mean 0 0 0 --image_std 1 nan 1
    --optim_args foo
    --optim_args momentum=
    --optim_args momentum=0.9,momentum=0.8
    --adam_beta1 2
    --adam_epsilon -1
    --max_steps 0
    --eval_strategy steps --save_strategy steps --eval_steps 0
    --save_strategy steps --save_steps 0
    --eval_accumulation_steps 0
    --logging_strategy steps --logging_steps -1
    --split_seed -1
    --data_seed -1
    --model_name_or_path=
    --resume_from_checkpoint=
    --lr_scheduler_type linear --warmup_steps 5 --max_steps 1
    stray
"""
ERRORS = [
    ("--lr_scaling cubic", "--lr_scaling"),
    ("--gradient_accumulation_steps 3", "1 processes x 3 accumulation steps: choose a multiple of 3"),
    *(
        (f"--gradient_accumulation_steps 2 {compiled}", "captures CUDA graphs, .* gradient_accumulation_steps")
        for compiled in (
            "--torch_compile_mode reduce-overhead",
            "--torch_compile --torch_compile_mode max-autotune",
            "--torch_compile_backend cudagraphs",
        )
    ),
    ("--saved_weights best", "--saved_weights"),
    ("--max_steps -5", "max_steps must be above 0, or -1"),
    *((f"--{name}", f"{name} is not supported") for name in ("bf16_full_eval", "fp16_full_eval")),
    ("--fsdp full_shard", "fsdp is not supported"),
    ("--deepspeed ds.json", "deepspeed is not supported"),
    ("--prediction_loss_only", "prediction_loss_only and batch_eval_metrics must be false"),
    ("--batch_eval_metrics", "prediction_loss_only and batch_eval_metrics must be false"),
    ("--eval_do_concat_batches false", "eval_do_concat_batches must be true"),
    ("--dataloader_prefetch_factor 2", "dataloader_prefetch_factor needs workers"),
    ("--dataloader_multiprocessing_context spawn", "dataloader_multiprocessing_context needs workers"),
    ("--dataloader_persistent_workers", "dataloader_persistent_workers needs workers"),
    (
        '--accelerator_config {"gradient_accumulation_kwargs":{"num_steps":7}}',
        "accelerator_config must not have num_steps",
    ),
    ('--lr_scheduler_kwargs {"gamma":1,"gamma":2}', "the key gamma is given twice"),
    ('--accelerator_config {"even_batches":true,"even_batches":false}', "the key even_batches is given twice"),
    ('--lr_scheduler_type step --lr_scheduler_kwargs {"gama":1}', "step does not take gama"),
    # Without effect
    ("--do_train false", "do_train has no effect"),
    ("--do_eval", "do_eval has no effect"),
    ("--eval_steps 10", "eval_steps has no effect with eval_strategy epoch"),
    ("--save_steps 10", "save_steps has no effect with save_strategy epoch"),
    ("--logging_steps 10", "logging_steps has no effect with logging_strategy epoch"),
    ("--hub_model_id ann/model", "hub_model_id has no effect without push_to_hub"),
    ("--ema_decay 1", "ema_decay"),
    ("--mixing_probability 2", "mixing_probability"),
    ("--mixup_alpha -1", "mixup_alpha"),
    ("--mixing_stop_epoch -1", "mixing_stop_epoch"),
    ("--dataloader_num_workers 100000", "dataloader_num_workers must be at most [0-9]+ on this machine"),
    ("--global_batch_size 99999999999999999999", "global_batch_size must be below 2"),
    ("--adam_beta2 1", "adam_beta2 must be from 0 to below 1"),
    ("--lerning_rate 1", "unknown argument --lerning_rate; did you mean --learning_rate\\?"),
    ("--num_epochs=3 1", "unknown argument --num_epochs=3; did you mean --num_train_epochs\\?"),
    ("--optim adam", "^optim adam is no optimizer: choose one of adamw_torch, .*sgd, .*muon"),
    *((line.strip(), ".") for line in BAD.strip().splitlines()),
]


@pytest.mark.parametrize("line, message", ERRORS)
def test_bad_input_is_one_line(parse, line, message):
    with pytest.raises(ValueError, match=message) as refused:
        parse(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("ACCELERATE_USE_CPU", "maybe", "must be true or false"),
        ("ACCELERATE_DEBUG_MODE", "maybe", "must be true or false"),
        ("ACCELERATE_DEBUG_MODE", "", "must be true or false"),
        ("ACCELERATE_CPU_AFFINITY", "maybe", "must be true or false"),
        ("ACCELERATE_USE_FSDP", "maybe", "must be true or false"),
        ("ACCELERATE_DYNAMO_USE_DYNAMIC", "2", "must be true or false"),
        ("ACCELERATE_MIXED_PRECISION", "fp7", "must be no, bf16 or fp16"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "must be no, bf16 or fp16"),
        ("ACCELERATE_TORCH_DEVICE", "cuda:9", "must be "),
        ("ACCELERATE_TORCH_DEVICE", "gpu", "must be "),
        ("ACCELERATE_TORCH_DEVICE", "meta", "must be "),
    ],
)
@pytest.mark.parametrize("line", ["", "--use_cpu"])
def test_variable_of_accelerate_that_cannot_work_is_named(parse, monkeypatch, name, value, message, line):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}={value} of the environment {message}"):
        parse(line)


@pytest.mark.parametrize("value", ["yes", "T", "on"])
def test_every_spelling_of_true_turns_on_what_is_not_supported(parse, monkeypatch, value):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", value)
    with pytest.raises(ValueError, match="FSDP is not supported"):
        parse()


def test_device_of_this_machine_may_be_named(parse, monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    assert parse("--use_cpu")[2].device.type == "cpu"


@pytest.mark.parametrize(
    "name, value, reason",
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP is not supported"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed is not supported"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM is not supported"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "set gradient_accumulation_steps instead"),
        ("ACCELERATE_GRADIENT_CLIPPING", "0.5", "set max_grad_norm instead"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "set torch_compile_backend instead"),
    ],
)
def test_what_the_launcher_chose_is_not_lost(parse, monkeypatch, name, value, reason):
    for harmless in ("no", "false"):
        monkeypatch.setenv(name, harmless)
        parse()
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=reason):
        parse()


def test_cuda_graphs_of_the_launcher_take_no_accumulation(parse, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "reduce-overhead")
    parse("")
    with pytest.raises(ValueError, match="torch_compile_mode reduce-overhead captures CUDA graphs"):
        parse("--gradient_accumulation_steps 2")


# Batches


@pytest.mark.parametrize(
    "line, per_device, whole",
    [
        ("", 256, 256),
        ("--global_batch_size 64", 64, 64),
        ("--gradient_accumulation_steps 4", 64, 256),
        ("--global_batch_size 12 --gradient_accumulation_steps 3", 4, 12),
        ("--per_device_train_batch_size 10", 10, 10),
        ("--per_device_train_batch_size 10 --gradient_accumulation_steps 3", 10, 30),
        ("--per_device_train_batch_size 10 --global_batch_size 7", 10, 10),
    ],
)
def test_batch_arithmetic(parse, line, per_device, whole):
    args = parse(line)[2]
    assert (args.per_device_train_batch_size, args.global_batch_size) == (per_device, whole)
    assert args.train_batch_size == per_device


# Arguments of a schedule


PLATEAU_OF_NOTEBOOK = {"factor": 0.5, "patience": 3, "threshold": 1e-3, "min_lr": 1e-4}


@pytest.mark.parametrize("schedule, kept", [("cosine", {}), ("reduce_lr_on_plateau", PLATEAU_OF_NOTEBOOK)])
def test_arguments_of_the_schedule_of_a_recipe_are_for_no_other(parse, schedule, kept):
    assert parse(f"--config notebook --lr_scheduler_type {schedule}")[2].lr_scheduler_kwargs == kept


@pytest.mark.parametrize(
    "metric, greater", [("top1", True), ("loss", False), ("eval_loss", False), ("top5", True), ("superclass", True)]
)
def test_direction_of_the_metric(parse, metric, greater):
    assert parse(f"--metric_for_best_model {metric}")[2].greater_is_better is greater


# Precision and device


@pytest.mark.parametrize(
    "launched, line, precision, source",
    [
        (None, "", "fp32", "our default"),
        ("no", "", "fp32", "our default"),
        ("bf16", "", "bf16", "Accelerate"),
        (None, "--bf16", "bf16", "flag"),
        (None, "--bf16 false", "fp32", "flag"),
        ("bf16", "--bf16 false", "fp32", "flag"),
        ("fp16", "--bf16", "bf16", "flag"),
    ],
)
def test_precision_and_who_chose_it(parse, monkeypatch, launched, line, precision, source):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched or "")
    if launched is None:
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    args = parse(line)[2]
    assert (args.precision, args.precision_source) == (precision, source)


@pytest.mark.parametrize("line", ["--bf16 false", "--bf16", "--torch_compile --lr_scaling linear --ema_decay 0.9"])
def test_parsing_leaves_the_environment_alone(parse, monkeypatch, line):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    before = dict(os.environ)
    parse(line)
    assert dict(os.environ) == before


def test_arguments_survive_json(tmp_path):
    args = CifarTrainingArguments(output_dir=str(tmp_path), use_cpu=True, lr_scheduler_type="one_cycle")
    written = json.loads(args.to_json_string())
    assert (written["lr_scheduler_type"], written["global_batch_size"]) == ("one_cycle", 256)


# Processes


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "1", "RANK": "0"}, {"LOCAL_RANK": "-1"}])
def test_variables_that_mean_one_process(parse, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse()[2].world_size == 1


# Methods of accuracy


@pytest.mark.parametrize(
    "line, rate",
    [
        ("", 1e-3),
        ("--global_batch_size 1024", 1e-3),
        ("--global_batch_size 1024 --lr_scaling linear", 4e-3),
        ("--global_batch_size 1024 --lr_scaling sqrt", 2e-3),
        ("--per_device_train_batch_size 32 --gradient_accumulation_steps 2 --lr_scaling linear", 2.5e-4),
    ],
)
def test_learning_rate_is_scaled_where_it_is_asked_for(parse, line, rate):
    args = parse(line)[2]
    assert (args.learning_rate, args.scaled_learning_rate) == (1e-3, pytest.approx(rate))
    assert replace(args).scaled_learning_rate == pytest.approx(rate)


@pytest.mark.parametrize("flag", ["--config", "--augmentation"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipe_or_folder_instead_of_a_file(tmp_path, refused, flag, make):
    """As `<(...)` of a shell is."""
    make(tmp_path / "file.yaml")
    line = refused("preview", "--dataset_name", "shapes100", flag, tmp_path / "file.yaml")
    assert f"{tmp_path / 'file.yaml'}" in line
    assert "it is not a regular file, but a folder, a pipe or a device" in line
