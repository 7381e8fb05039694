"""The reading of a study that leaves parts out, from the scores of its runs."""

import pytest

from hf_cifar_resnet.study.report import part_left_out, reading_of_parts


def runs(part, *accuracies, schedule="cosine"):
    left_out = f"-without-{part}" if part else ""
    return [
        {"name": f"{schedule}{left_out}-seed{seed}", "metrics": {"test": {"top1": top1}}}
        for seed, top1 in enumerate(accuracies)
    ]


@pytest.mark.parametrize(
    "name, part",
    [
        ("cosine-seed1", None),
        ("cosine-without-ema-seed42", "ema"),
        ("cosine_with_warmup-without-drop_path-weight_decay=0.1-seed2", "drop_path"),
    ],
)
def test_part_is_read_off_the_folder(name, part):
    assert part_left_out({"name": name}) == part


def test_only_differences_that_the_seeds_support_are_claimed():
    text = reading_of_parts(
        {
            "cosine": runs("", 0.500, 0.501, 0.499),
            "cosine, without ema": runs("ema", 0.400, 0.401, 0.399),
            "cosine, without mixing": runs("mixing", 0.52, 0.48, 0.54),
        }
    )
    claimed, open_ones = text.split("The seeds do not support a difference for")
    assert "The whole: cosine with 50.00 ± 0.10% (n = 3)" in claimed
    assert "without ema (-10.00 points, p = " in claimed and "mixing" not in claimed
    assert "without mixing (+1.33 points)" in open_ones and "ema" not in open_ones


def test_every_whole_has_its_own_parts():
    text = reading_of_parts(
        {
            "cosine": runs("", 0.5, 0.51),
            "step": runs("", 0.3, 0.31, schedule="step"),
            "cosine, without ema": runs("ema", 0.4, 0.41),
            "step, without ema": runs("ema", 0.4, 0.41, schedule="step"),
        }
    )
    assert "cosine, without ema (-10.00 points" in text and "step, without ema (+10.00 points" in text


def test_one_seed_claims_nothing():
    text = reading_of_parts({"cosine": runs("", 0.5), "cosine, without ema": runs("ema", 0.1)})
    assert "no difference is claimed" in text and "points" not in text
