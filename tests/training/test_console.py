"""What is printed before and while training, from real arguments, data and model."""

import os
import re
import sys

import pytest

from hf_cifar_resnet.commands.parser import parse_arguments
from hf_cifar_resnet.model import CifarResNetConfig
from hf_cifar_resnet.training.arguments import resolve
from hf_cifar_resnet.training.build import build_model, load_data
from hf_cifar_resnet.training.console import start_block
from hf_cifar_resnet.training.record import make_record, model_name

DEFAULT = "crop_flip_jitter (pad and crop, horizontal flip, color jitter)"
SMALL = "--use_cpu --config quickstart --max_train_samples 200 --max_eval_samples 100 --output_dir nowhere"


@pytest.fixture(scope="module")
def data():
    arguments = resolve(parse_arguments(SMALL.split()))
    return load_data(arguments.data, arguments.training)


@pytest.fixture
def printed(data):
    """The lines of the block, by their first word."""

    def lines(arguments):
        given = resolve(parse_arguments([*SMALL.split(), *arguments.split()]))
        model = build_model(given.model, data)
        args = given.training.with_precision_for(model)
        run = make_record(model, data, given.model, given.data, args, [])
        return dict(line.split(maxsplit=1) for line in start_block(run, args).splitlines())

    return lines


@pytest.mark.parametrize(
    "arguments, methods",
    [
        ("", f"augmentation {DEFAULT}"),
        (
            "--mixup_alpha 0.2 --label_smoothing_factor 0.1",
            f"augmentation {DEFAULT}, MixUp 0.2, label smoothing 0.1",
        ),
        (
            "--augmentation cutout --mixup_alpha 0.2 --cutmix_alpha 1 --mixing_probability 0.5 --mixing_stop_epoch 0.9",
            "augmentation cutout (pad and crop, horizontal flip, cutout), "
            "MixUp 0.2 or CutMix 1 in 50% of batches until 90% of the run",
        ),
        ("--augmentation crop_only", "augmentation crop_only (pad and crop)"),
        ("--augmentation none --random_erasing 0.5", "augmentation none, random erasing 0.5"),
        ("--cutmix_alpha 1 --mixing_stop_epoch 5", f"augmentation {DEFAULT}, CutMix 1 until epoch 5"),
        (
            "--random_erasing 0.25 --dropout 0.1 --drop_path_rate 0.2 --ema_decay 0.9",
            f"augmentation {DEFAULT}, random erasing 0.25, dropout 0.1, drop path 0.2, "
            "EMA 0.9 (ema weights are evaluated and saved)",
        ),
        (
            "--ema_decay 0.9 --saved_weights raw",
            f"augmentation {DEFAULT}, EMA 0.9 (raw weights are evaluated and saved)",
        ),
    ],
)
def test_methods_are_printed(printed, arguments, methods):
    assert printed(arguments)["Methods"] == methods


@pytest.mark.parametrize(
    "shape, name",
    [
        ({"depth": 50}, "resnet50"),
        ({"depth": 20}, "resnet20"),
        ({"block": "basic", "stage_depths": [3, 3, 3], "stage_widths": [16, 32, 64]}, "resnet20"),
        ({"block": "basic", "stage_depths": [3, 3, 3]}, "resnet20-w64-128-256"),
        ({"depth": 18, "stage_widths": [16, 32, 64, 128]}, "resnet18-w16-32-64-128"),
        ({"block": "basic", "stage_depths": [1, 1, 1], "stage_widths": [16, 32, 64]}, "resnet-basic-1-1-1-w16-32-64"),
    ],
)
def test_model_is_named_by_its_shape(shape, name):
    assert model_name(CifarResNetConfig(**shape)) == name


def test_learning_rate_and_optimizer_are_printed(printed):
    assert printed("")["Schedule"].endswith("peak LR 0.01")
    optimizer = "--optim sgd --optim_args momentum=0.9,nesterov=true --weight_decay 5e-4"
    scaled = printed(f"--lr_scaling linear {optimizer}")
    assert scaled["Schedule"].endswith("peak LR 0.00125 (0.01 at batch 256, linear scaling to batch 32)")
    assert "sgd (momentum=0.9,nesterov=true), weight decay 0.0005" in scaled["Training"]


@pytest.mark.parametrize(
    "instructions, arguments, precision",
    [
        (["amx_tile", "amx_bf16"], "--depth 18", "bf16 (our default, in which this CPU is faster)"),
        ([], "--depth 18", "fp32 (our default)"),
    ],
)
def test_precision_and_its_reason_are_printed(printed, cpu_with, instructions, arguments, precision):
    cpu_with(*instructions)
    assert printed(arguments)["Precision"] == precision


@pytest.mark.parametrize(
    "folder, path",
    [("runs/one", "runs/one"), ("./runs/one/", "runs/one"), ("/srv/ann/one", "path/to/one"), ("../one", "path/to/one")],
)
def test_folder_in_the_card_is_the_one_that_was_given(data, folder, path):
    """But a path of this machine, which is nobody else's business, has a placeholder."""
    given = resolve(parse_arguments([*SMALL.split(), "--output_dir", folder]))
    run = make_record(build_model(given.model, data), data, given.model, given.data, given.training, [])
    assert run.redacted().model.path == path


def test_warning_is_printed(data):
    given = resolve(parse_arguments(SMALL.split()))
    run = make_record(build_model(given.model, data), data, given.model, given.data, given.training, [])
    assert start_block(run, given.training, warning="too short").splitlines()[-1] == "Warning    too short"
    assert "Warning" not in start_block(run, given.training)


@pytest.mark.parametrize(
    "make_output, options, has_bar",
    [(os.openpty, {}, True), (os.openpty, {"disable_tqdm": True}, False), (os.pipe, {}, False)],
    ids=["terminal", "terminal, disabled", "pipe"],
)
def test_progress_is_shown_on_a_terminal(make_trainer, make_output, options, has_bar):
    """Also on one that does not know its width, as this one."""
    reader, writer = make_output()
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(writer, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
        try:
            make_trainer(eval_strategy="epoch", **options).train()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    output = b""
    while chunk := read_or_end(reader):
        output += chunk
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    text = output.decode()
    assert "epoch     1/1" in text
    # Steps done, of all, and the time left
    assert bool(re.search(r"[1-5]/5 \[\d\d:\d\d<\d\d:\d\d", text)) == has_bar


def test_best_epoch_is_printed_at_the_end(make_trainer, capsys):
    """Whose weights the model has then, though the last epoch was another."""
    scores = iter([0.1, 0.9, 0.5])
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    make_trainer(num_train_epochs=3, compute_metrics=lambda prediction: {"top1": next(scores)}, **best).train()
    *_, line = capsys.readouterr().out.splitlines()
    assert line == "best  epoch 2, top-1 90.00%: the model has its weights now"


def read_or_end(descriptor):
    """The next bytes, or none at the end, which is an error of a terminal."""
    try:
        return os.read(descriptor, 10_000)
    except OSError:
        return b""
