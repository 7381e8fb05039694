import pytest
import torch

from hf_cifar_resnet.model import CifarResNetConfig, CifarResNetForImageClassification

TINY = {"block": "basic", "stage_depths": [1, 1, 1], "stage_widths": [8, 16, 32]}
STANDARD = [
    (18, "basic", [2, 2, 2, 2]),
    (34, "basic", [3, 4, 6, 3]),
    (50, "bottleneck", [3, 4, 6, 3]),
    (101, "bottleneck", [3, 4, 23, 3]),
    (152, "bottleneck", [3, 8, 36, 3]),
]


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def build_on_meta(**kwargs):
    with torch.device("meta"):
        return CifarResNetForImageClassification(CifarResNetConfig(**kwargs))


def test_default_is_resnet50_with_cifar_stem():
    config = CifarResNetConfig()
    assert (config.depth, config.stem, config.dropout, config.zero_init_residual) == (50, "cifar", 0.0, False)
    assert count_parameters(build_on_meta(num_labels=100)) == 23_705_252


@pytest.mark.parametrize("depth, block, stage_depths", STANDARD)
def test_depth_and_shape_imply_each_other(depth, block, stage_depths):
    config = CifarResNetConfig(depth=depth)
    assert (config.block, config.stage_depths) == (block, stage_depths)
    assert config.stage_widths == [64, 128, 256, 512]
    assert CifarResNetConfig(block=block, stage_depths=tuple(stage_depths)).depth == depth
    assert CifarResNetConfig(depth=depth, block=block, stage_depths=stage_depths).depth == depth


@pytest.mark.parametrize("depth, millions", [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_cifar_family_has_the_layers_and_parameters_of_the_paper(depth, millions):
    """He et al. 2015, table 6, whose shortcuts have no weights where ours are projections."""
    model = build_on_meta(depth=depth, num_labels=10)
    assert (model.config.stage_depths, model.config.stage_widths) == ([(depth - 2) // 6] * 3, [16, 32, 64])
    names = [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len([name for name in names if "downsample" not in name]) == depth
    projections = sum(count_parameters(module) for name, module in model.named_modules() if name.endswith("downsample"))
    assert projections == 2752
    assert round((count_parameters(model) - projections) / 1e6, 2) == millions


def test_cifar_family_in_other_widths_keeps_its_depth():
    assert CifarResNetConfig(depth=20, stage_widths=[32, 64, 128]).stage_widths == [32, 64, 128]
    # A shape without a depth has the widths it always had.
    config = CifarResNetConfig(block="basic", stage_depths=[3, 3, 3])
    assert (config.depth, config.stage_widths) == (20, [64, 128, 256])


def test_own_shape_has_no_depth_and_shares_no_state():
    config = CifarResNetConfig(block="bottleneck", stage_depths=[1, 1])
    assert (config.depth, config.stage_widths) == (None, [64, 128])
    first = CifarResNetConfig(depth=18)
    first.stage_depths.append(1)
    first.stage_widths.append(1)
    assert CifarResNetConfig(depth=18).stage_depths == [2, 2, 2, 2]
    assert CifarResNetConfig(depth=18).stage_widths == [64, 128, 256, 512]


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"depth": 152, "stem": "imagenet", "dropout": 0.25, "zero_init_residual": True, "num_channels": 1},
        {"depth": 56, "stage_widths": [8, 16, 32]},
        {**TINY, "block": "bottleneck", "stage_depths": (1, 1, 1), "stage_widths": (8, 16, 32), "num_labels": 2},
        {**TINY, "id2label": {0: "apple", 1: "bear", 2: "cup"}, "label2id": {"apple": 0, "bear": 1, "cup": 2}},
    ],
)
def test_round_trip(kwargs, tmp_path):
    config = CifarResNetConfig(**kwargs)
    config.save_pretrained(tmp_path)
    loaded = CifarResNetConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.id2label, loaded.num_labels) == (config.id2label, config.num_labels)


@pytest.mark.parametrize(
    "field, kwargs",
    [
        ("depth", {"depth": 21}),
        ("depth", {"depth": 20, "block": "bottleneck"}),
        ("depth", {"depth": "50"}),
        ("depth", {"depth": [18]}),
        ("block", {"depth": 18, "block": "bottleneck"}),
        ("stage_depths", {"depth": 18, "stage_depths": [3, 4, 6, 3]}),
        ("stage_depths", {"block": "basic"}),
        ("block", {"stage_depths": [1, 1, 1]}),
        ("block", {"block": "resnext", "stage_depths": [1, 1, 1]}),
        ("stage_depths", {"block": "basic", "stage_depths": []}),
        ("stage_depths", {**TINY, "stage_depths": 3}),
        ("stage_depths", {**TINY, "stage_depths": [1, 0, 1]}),
        ("stage_depths", {**TINY, "stage_depths": [1, True, 1]}),
        ("stage_widths", {"block": "basic", "stage_depths": [1] * 5}),
        ("stage_widths", {**TINY, "stage_widths": [8, 16]}),
        ("stage_widths", {"depth": 50, "stage_widths": [8, 16, 32]}),
        ("stage_widths", {**TINY, "stage_widths": [8, 16, 0]}),
        ("stem", {"stem": "cifar10"}),
        ("dropout", {"dropout": 1.0}),
        ("dropout", {"dropout": float("nan")}),
        ("num_channels", {"num_channels": 0}),
        ("num_channels", {"num_channels": True}),
        ("drop_path_rate", {"drop_path_rate": 1.0}),
        ("drop_path_rate", {"drop_path_rate": "half"}),
    ],
)
def test_bad_combination_names_the_field(field, kwargs):
    with pytest.raises(ValueError, match=field):
        CifarResNetConfig(**kwargs)


@pytest.mark.parametrize("field, value", [("depth", 18), ("stem", "x"), ("stage_depths", [1, 1])])
def test_model_refuses_bad_override_of_saved_configuration(field, value, tmp_path):
    CifarResNetConfig(**TINY).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=field):
        CifarResNetForImageClassification(CifarResNetConfig.from_pretrained(tmp_path, **{field: value}))


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_problem_that_the_loss_is_not_for(problem):
    with pytest.raises(ValueError, match=f"problem_type must be single_label_classification.*{problem}"):
        CifarResNetConfig(problem_type=problem)
    assert CifarResNetConfig(problem_type="single_label_classification").num_labels == 2
