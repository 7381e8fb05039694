import pytest
import torch
import torchvision
from torch import nn

from hf_cifar_resnet.model import CifarResNetConfig, CifarResNetForImageClassification
from hf_cifar_resnet.model.modeling_cifar_resnet import CifarBasicBlock, CifarBottleneck

BLOCKS = pytest.mark.parametrize("block", ["basic", "bottleneck"])


def make_block(block, drop_path, downsample=False):
    kind, channels = (CifarBottleneck, 32) if block == "bottleneck" else (CifarBasicBlock, 8)
    module = kind(channels, 8, downsample=nn.Conv2d(channels, channels, 1) if downsample else None)
    module.drop_path = drop_path
    # So that a training pass computes the same for every image and every time.
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
            norm.train = lambda mode=True: None
    return module


def hidden(block, count):
    torch.manual_seed(0)
    return torch.randn(1, 32 if block == "bottleneck" else 8, 4, 4).abs().expand(count, -1, -1, -1).clone()


def branch_of(module, images):
    """What the last BatchNorm of the branch gives."""
    found = []
    last = module.bn3 if isinstance(module, CifarBottleneck) else module.bn2
    handle = last.register_forward_hook(lambda *call: found.append(call[-1].clone()))
    module.eval()(images)
    handle.remove()
    return found[0]


@BLOCKS
@pytest.mark.parametrize("downsample", [False, True])
@torch.no_grad()
def test_branch_is_dropped_or_scaled(block, downsample):
    """Each image gets its shortcut alone or the branch over the share that is kept; that share is as given."""
    module, images = make_block(block, 0.3, downsample), hidden(block, 2000)
    shortcut = module.downsample(images[:1]) if downsample else images[:1]
    branch = branch_of(module, images[:1])
    outputs = module.train()(images)
    dropped = torch.isclose(outputs, shortcut.relu(), atol=1e-5).flatten(1).all(1)
    kept = torch.isclose(outputs, (shortcut + branch / 0.7).relu(), atol=1e-5).flatten(1).all(1)
    assert (dropped ^ kept).all()
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.04)


@BLOCKS
@pytest.mark.parametrize("drop_path, training", [(0.0, True), (0.5, False)])
def test_gradients_are_those_of_torchvision_where_nothing_is_dropped(block, drop_path, training):
    torch.manual_seed(0)
    module = make_block(block, drop_path, downsample=True).train(training)
    plain = torchvision.models.resnet.Bottleneck if block == "bottleneck" else torchvision.models.resnet.BasicBlock
    images = hidden(block, 3)
    results = []
    for forward in (module, lambda x: plain.forward(module, x)):
        module.zero_grad()
        output = forward(images)
        output.square().sum().backward()
        results.append([output, *(parameter.grad.clone() for parameter in module.parameters())])
    assert all(torch.equal(left, right) for left, right in zip(*results, strict=True))


def test_rate_rises_linearly_to_the_last_block():
    config = CifarResNetConfig(block="basic", stage_depths=[2, 1, 2], stage_widths=[8, 8, 8], drop_path_rate=0.5)
    backbone = CifarResNetForImageClassification(config).resnet.backbone
    blocks = [*backbone.layer1, *backbone.layer2, *backbone.layer3]
    assert [block.drop_path for block in blocks] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_rate_is_saved_and_may_be_changed_when_loaded(tmp_path):
    shape = {"block": "basic", "stage_depths": [1], "stage_widths": [8]}
    model = CifarResNetForImageClassification(CifarResNetConfig(**shape, drop_path_rate=0.2))
    model.save_pretrained(tmp_path)
    assert CifarResNetForImageClassification.from_pretrained(tmp_path).resnet.backbone.layer1[0].drop_path == 0.2
    other = CifarResNetForImageClassification.from_pretrained(tmp_path, drop_path_rate=0.1)
    assert other.resnet.backbone.layer1[0].drop_path == 0.1
