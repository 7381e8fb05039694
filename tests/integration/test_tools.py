"""The commands around training."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.commands.preview import mixed_columns

SMALL = "--config quickstart --max_train_samples 200 --max_eval_samples 100 --use_cpu".split()


def test_find_lr_draws_and_suggests(tmp_path, capsys):
    cli(["find-lr", *SMALL, "--num_steps", "30", "--output", str(tmp_path / "range.png")])
    with open(tmp_path / "range.csv", newline="") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates == sorted(rates) and rates[0] == pytest.approx(1e-6)
    # From one step to the next the rate rises by the same factor.
    assert rates[1] / rates[0] == pytest.approx(1e6 ** (1 / 30))
    assert (tmp_path / "range.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    suggested = float(printed.split("Suggested learning rate ")[1].split()[0])
    assert rates[0] < suggested < rates[-1]
    assert "smoothed over a tenth of the steps" in printed
    for written in tmp_path.iterdir():
        assert str(written) in printed
    # There is no terminal for a progress bar.
    first, *steps, _ = printed.splitlines()
    assert first == "30 steps of 32 images, from learning rate 1e-06 to 1"
    shown = [line.split()[1] for line in steps]
    assert shown == [f"{step}/30" for step in range(3, 31, 3)][: len(shown)] and len(rates) // 3 == len(shown)


def test_schedules_are_drawn_without_training(tmp_path, refused, capsys):
    cli(["schedules", "--output", str(tmp_path / "all.png"), "--warmup_steps", "0.1"])
    assert capsys.readouterr().out == f"Drawn: {tmp_path}/all.png and {tmp_path}/all.svg\n"
    cli(["schedules", "cosine", "step", "--output", str(tmp_path / "two.png")])
    assert (tmp_path / "all.png").stat().st_size > (tmp_path / "two.png").stat().st_size > 5000
    # As many steps as one may ask for take no longer.
    cli(["schedules", "cosine", "greedy", "--output", str(tmp_path / "long.png"), "--steps", "10000000"])
    assert (tmp_path / "long.png").stat().st_size > 5000
    assert "choose one of" in refused("schedules", "cosin")


def test_preview_draws_what_training_will_see(tmp_path, capsys):
    def width(*arguments):
        cli(["preview", *SMALL, "--images", "2", "--columns", "4", "--output", str(tmp_path / "sheet.png"), *arguments])
        with Image.open(tmp_path / "sheet.png") as sheet:
            return sheet.width

    # Before and four after; with mixing two more.
    assert width("--augmentation", "mild_trivial_cutout") * 7 == pytest.approx(
        width("--augmentation", "none", "--cutmix_alpha", "1") * 5, rel=0.01
    )
    assert "Policy mild_trivial_cutout on 2 images of shapes100" in capsys.readouterr().out


@pytest.mark.parametrize(
    "mixup_alpha, cutmix_alpha, probability, kinds",
    [(0.2, 1, 0.5, ["MixUp", "CutMix"]), (1, 0, 1, ["MixUp"]), (0, 1, 1, ["CutMix"]), (0, 0, 1, []), (1, 1, 0, [])],
)
def test_labels_under_mixed_images_have_the_shares_of_the_pixels(mixup_alpha, cutmix_alpha, probability, kinds):
    args = SimpleNamespace(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, mixing_probability=probability, seed=0)
    black_and_white = np.stack([np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)])
    columns = mixed_columns([black_and_white], torch.tensor([0, 1]), ["black", "white"], args)
    assert [kind for kind, *_ in columns] == kinds
    for kind, images, captions in columns:
        for image, caption in zip(images, captions, strict=True):
            assert len(set(image.ravel().tolist())) == (2 if kind == "CutMix" else 1)
            shares = dict(line.split() for line in caption.splitlines())
            assert shares == {"white": f"{image.mean() / 255:.0%}", "black": f"{1 - image.mean() / 255:.0%}"}
            assert list(shares.values()) == sorted(shares.values(), key=lambda share: int(share[:-1]), reverse=True)


@pytest.mark.lowest
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["find-lr", "--start_lr", "1", "--end_lr", "0.1"], "below --end_lr"),
        (["find-lr", "--end_lr", "inf"], "--end_lr must be a number that --start_lr divides, got inf / 1e-06"),
        (["find-lr", "--start_lr", "1e-310"], "--end_lr must be a number that --start_lr divides"),
        (["find-lr", "--optim", "schedule_free_adamw"], "find-lr is for schedules, and schedule_free_adamw has none"),
        (["find-lr", "--output", ""], "--output must not be empty"),
        (["preview", "--output", ""], "--output must not be empty"),
        (["schedules", "--output", ""], "--output must not be empty"),
        (["schedules", "--learning_rate", "nan"], "must be above 0"),
        (["schedules", "cosine", "--steps", "10000001"], "--steps: must be from 1 to 10000000, got 10000001"),
        (["preview", "--columns", "5000"], "--images times --columns must be at most 1,000, got 40,000"),
        (["preview", "--images", "5000"], "--images times --columns must be at most 1,000, got 40,000"),
        (["schedules", "step", "--lr_scheduler_kwargs", '{"gamma": -1}'], "gamma must be from 0 to 1"),
        (["schedules", "step", "--lr_scheduler_kwargs", '{"gamma": "x"}'], "gamma of step must be a number, got 'x'"),
        (["evaluate", "nowhere"], "is neither a folder nor user/repo"),
        (["find-lr", "--use_cpu", "--model_name_or_path", "nowhere"], "nowhere is neither a folder nor user/repo"),
        (["benchmark", "step", "--use_cpu", "--model_name_or_path", "nowhere"], "nowhere is neither a folder"),
        (
            ["preview", "--augmentation", "stronk"],
            "--augmentation stronk is no policy: choose one of crop_flip_jitter",
        ),
        (["preview", "--augmentation", "mine.yaml"], "there is no augmentation policy file mine.yaml"),
        (["preview", "--images", "0"], "must be at least 1"),
        (["fly"], "there is no command fly; choose one of train"),
    ],
)
def test_bad_arguments(refused, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments)
