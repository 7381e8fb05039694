import math
from functools import partial

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from hf_cifar_resnet.model import CifarResNetConfig, CifarResNetForImageClassification, CifarResNetModel

LABELS = torch.tensor([0, 4, 2, 4])


def tiny_config(**kwargs):
    shape = {"block": "basic", "stage_depths": [1, 1, 1], "stage_widths": [8, 16, 32], "num_labels": 5}
    return CifarResNetConfig(**{**shape, **kwargs})


def tiny_model(model_class=CifarResNetForImageClassification, **kwargs):
    torch.manual_seed(0)
    return model_class(tiny_config(**kwargs))


def images(count=4, height=16, width=16, channels=3):
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def cifar_resnet18(num_classes=5):
    module = torchvision.models.resnet18(num_classes=num_classes)
    module.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    module.maxpool = nn.Identity()
    return module


TORCHVISION = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=5),
    "resnet50": lambda: torchvision.models.resnet50(num_classes=5),
    "resnet18_cifar": cifar_resnet18,
}


def trained(module):
    """The module after one training step, so that no weight or BatchNorm statistic is at its initial value."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    output = module.train()(images(4, 64, 64))
    nn.functional.cross_entropy(getattr(output, "logits", output), LABELS).backward()
    optimizer.step()
    return module.requires_grad_(True).eval()


assert_equal_tensors = partial(torch.testing.assert_close, rtol=0, atol=0)


# torchvision


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_and_back_to_the_bit(name):
    reference = trained(TORCHVISION[name]())
    model, pixels = CifarResNetForImageClassification.from_torchvision(reference), images(2, 64, 64)
    back = model.to_torchvision()
    assert_equal_tensors(back.state_dict(), reference.state_dict())
    assert [type(m) for m in back.modules()] == [type(m) for m in reference.modules()]
    with torch.no_grad():
        for mode in (False, True, False):
            assert model.train(mode).to_torchvision().training is mode
            assert torch.equal(model(pixels).logits, reference.train(mode)(pixels))


def test_from_torchvision_copies_and_describes():
    module = cifar_resnet18(num_classes=3)
    before = module.fc.weight.clone()
    model = CifarResNetForImageClassification.from_torchvision(module, id2label={0: "a", 1: "b", 2: "c"}, dropout=0.1)
    assert (model.config.depth, model.config.stem, model.config.num_labels) == (18, "cifar", 3)
    assert (model.config.id2label[2], model.config.dropout) == ("c", 0.1)
    model.classifier.weight.data.zero_()
    assert torch.equal(module.fc.weight, before)


def altered(**replaced):
    module = torchvision.models.resnet18(num_classes=5)
    for name, layer in replaced.items():
        setattr(module, name, layer)
    return module


@pytest.mark.parametrize(
    "build",
    [
        lambda: torchvision.models.resnext50_32x4d(num_classes=5),
        lambda: torchvision.models.wide_resnet50_2(num_classes=5),
        lambda: torchvision.models.resnet50(num_classes=5, replace_stride_with_dilation=[False, False, True]),
        lambda: torchvision.models.resnet18(num_classes=5, norm_layer=partial(nn.GroupNorm, 8)),
        lambda: altered(conv1=nn.Conv2d(3, 64, 3, 2, 1, bias=False), maxpool=nn.Identity()),
        lambda: altered(fc=nn.Linear(512, 5, bias=False)),
        lambda: "resnet18",
        lambda: altered(conv1=nn.Conv2d(3, 64, 3, 1, 0, bias=False), maxpool=nn.Identity()),
        lambda: altered(relu=nn.SiLU()),
        lambda: torchvision.models.resnet18(num_classes=5, norm_layer=partial(nn.BatchNorm2d, eps=0.1)),
        lambda: ResNet(Bottleneck, [1] * 4, num_classes=5, replace_stride_with_dilation=[False, False, True]),
        lambda: altered(fc=nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 5))),
    ],
)
def test_other_modules_are_refused(build):
    with pytest.raises(ValueError):
        CifarResNetForImageClassification.from_torchvision(build())


@pytest.mark.parametrize(
    "kwargs",
    [
        {"block": "basic", "stage_depths": [1, 1, 1]},
        {"depth": 18, "stage_widths": [8, 16, 32, 64]},
        {"depth": 18, "dropout": 0.1},
        {"depth": 18, "drop_path_rate": 0.1},
        {"depth": 18, "num_channels": 1},
    ],
)
def test_to_torchvision_refuses_what_it_cannot_express(kwargs):
    with pytest.raises(ValueError, match="torchvision"):
        CifarResNetForImageClassification(CifarResNetConfig(**kwargs)).to_torchvision()


# Initialisation


def assert_initial_convolutions(module):
    for name, conv in module.named_modules():
        if isinstance(conv, nn.Conv2d) and conv.weight.numel() > 20_000:
            fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
            assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.03), name
            assert abs(conv.weight.mean().item()) < 0.03 * math.sqrt(2 / fan_out), name


def assert_initial_batch_norm(bn, weight=1.0):
    assert torch.equal(bn.weight, torch.full_like(bn.weight, weight))
    assert not bn.bias.any() and not bn.running_mean.any()
    assert torch.equal(bn.running_var, torch.ones_like(bn.running_var))
    assert bn.num_batches_tracked.item() == 0 and bn.num_batches_tracked.dtype == torch.int64


def assert_initial_classifier(linear):
    bound = 1 / math.sqrt(linear.in_features)
    for tensor in (linear.weight, linear.bias):
        assert 0.9 * bound < tensor.abs().max().item() <= bound
        assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_initial_weights(block):
    model = tiny_model(block=block, stage_depths=[1, 1], stage_widths=[64, 128], num_labels=1000)
    assert_initial_convolutions(model)
    assert_initial_classifier(model.classifier)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == {"basic": 6, "bottleneck": 9}[block]
    for bn in norms:
        assert_initial_batch_norm(bn)


@pytest.mark.parametrize("block, last", [("basic", "bn2"), ("bottleneck", "bn3")])
def test_zero_init_residual_zeroes_only_last_norm_of_each_block(block, last):
    model = tiny_model(block=block, stage_depths=[2, 1, 1], zero_init_residual=True)
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    zeroed = {name for name in norms if "layer" in name and name.endswith(last)}
    assert len(zeroed) == 4
    for name, bn in norms.items():
        assert_initial_batch_norm(bn, weight=0.0 if name in zeroed else 1.0)


def save_trained(folder, drop=(), **kwargs):
    """Saves a trained model without the tensors whose name contains one of `drop`; returns all of its tensors."""
    model = trained(tiny_model(**kwargs))
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if not any(part in name for part in drop)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return model.state_dict(), kept


def test_mismatched_classifier_is_initialised_anew(tmp_path):
    saved, _ = save_trained(tmp_path)
    torch.manual_seed(0)
    model = CifarResNetForImageClassification.from_pretrained(tmp_path, num_labels=1000, ignore_mismatched_sizes=True)
    assert_initial_classifier(model.classifier)
    backbone = {name: t for name, t in saved.items() if not name.startswith("classifier.")}
    loaded = {name: t for name, t in model.state_dict().items() if not name.startswith("classifier.")}
    assert_equal_tensors(loaded, backbone)


def test_missing_tensors_are_initialised_as_in_a_new_model(tmp_path):
    drop = ("layer2.0.conv", "layer2.0.bn1.", "backbone.bn1.", "classifier.")
    shape = {"stage_depths": [1, 1], "stage_widths": [64, 128], "num_labels": 1000}
    _, kept = save_trained(tmp_path, drop=drop, **shape)
    torch.manual_seed(0)
    model = CifarResNetForImageClassification.from_pretrained(tmp_path)
    assert_initial_convolutions(model.resnet.backbone.layer2[0].conv1)
    assert_initial_convolutions(model.resnet.backbone.layer2[0].conv2)
    assert_initial_batch_norm(model.resnet.backbone.layer2[0].bn1)
    assert_initial_batch_norm(model.resnet.backbone.bn1)
    assert_initial_classifier(model.classifier)
    loaded = model.state_dict()
    assert_equal_tensors({name: loaded[name] for name in kept}, kept)


def test_zero_init_residual_spares_loaded_weights(tmp_path):
    drop = ("layer2.0.bn2.weight", "layer3.0.bn1.weight", "classifier.")
    saved, _ = save_trained(tmp_path, drop=drop, zero_init_residual=True)
    backbone = CifarResNetForImageClassification.from_pretrained(tmp_path).resnet.backbone
    name = "resnet.backbone.layer1.0.bn2.weight"
    assert saved[name].any() and torch.equal(backbone.layer1[0].bn2.weight, saved[name])
    assert not backbone.layer2[0].bn2.weight.any()
    assert torch.equal(backbone.layer3[0].bn1.weight, torch.ones(32))


# Loss


def test_loss_equals_closed_form():
    model = tiny_model().eval()
    one_hot = nn.functional.one_hot(LABELS, 5).float()
    mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
    for labels, probabilities in ((LABELS, one_hot), (one_hot, one_hot), (mixed, mixed)):
        output = model(images(), labels=labels)
        expected = -(probabilities * output.logits.log_softmax(-1)).sum(-1).mean()
        torch.testing.assert_close(output.loss, expected)


# Outputs


@pytest.mark.parametrize(
    "kwargs, shapes",
    [
        ({}, [(8, 16, 16), (8, 16, 16), (16, 8, 8), (32, 4, 4)]),
        ({"block": "bottleneck"}, [(8, 16, 16), (32, 16, 16), (64, 8, 8), (128, 4, 4)]),
        ({"stem": "imagenet"}, [(8, 4, 4), (8, 4, 4), (16, 2, 2), (32, 1, 1)]),
        ({"stage_depths": [2], "stage_widths": [8]}, [(8, 16, 16), (8, 16, 16)]),
    ],
)
@torch.no_grad()
def test_feature_shapes(kwargs, shapes):
    model = tiny_model(CifarResNetModel, **kwargs)
    assert model(images(2)).hidden_states is None
    output = model(images(2), output_hidden_states=True)
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, *shape) for shape in shapes]
    assert torch.equal(output.last_hidden_state, output.hidden_states[-1])
    assert output.pooler_output.shape == (2, shapes[-1][0], 1, 1)
    torch.testing.assert_close(output.pooler_output.flatten(1), output.last_hidden_state.mean((2, 3)))


@torch.no_grad()
def test_tuples():
    model = tiny_model().eval()
    features, expected = model.resnet(images()), model(images(), labels=LABELS, output_hidden_states=True)
    last, pooled = model.resnet(images(), return_dict=False)
    assert torch.equal(last, features.last_hidden_state) and torch.equal(pooled, features.pooler_output)
    (logits,) = model(images(), return_dict=False)
    assert torch.equal(logits, expected.logits)
    loss, logits, hidden = model(images(), labels=LABELS, output_hidden_states=True, return_dict=False)
    assert torch.equal(loss, expected.loss) and torch.equal(logits, expected.logits)
    assert len(hidden) == len(expected.hidden_states) == 4
    assert isinstance(tiny_model(return_dict=False, output_hidden_states=True)(images()), tuple)


@torch.no_grad()
def test_grey_images_and_odd_sizes():
    assert tiny_model(num_channels=1)(images(2, 13, 21, channels=1)).logits.shape == (2, 5)


# Ways to run it


def test_bfloat16_autocast_computes_loss_in_float32():
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images(2, 8, 8), labels=LABELS[:2])
    assert (output.logits.dtype, output.loss.dtype) == (torch.bfloat16, torch.float32)
    expected = nn.functional.cross_entropy(output.logits.float(), LABELS[:2])
    assert output.loss.isfinite() and torch.equal(output.loss, expected)
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_compiled_equals_eager():
    eager, compiled = tiny_model(drop_path_rate=0.3), tiny_model(drop_path_rate=0.3)
    run = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    torch.manual_seed(1)
    first = eager(images(), labels=LABELS)
    torch.manual_seed(1)
    second = run(images(), labels=LABELS)
    torch.testing.assert_close(second.logits, first.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.loss, first.loss)
    first.loss.backward()
    second.loss.backward()
    gradients = [[p.grad for p in model.parameters()] for model in (compiled, eager)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))


@pytest.mark.parametrize("model_class", [CifarResNetModel, CifarResNetForImageClassification])
def test_gradient_checkpointing_is_refused(model_class):
    with pytest.raises(ValueError, match="does not support"):
        tiny_model(model_class).gradient_checkpointing_enable()


@pytest.mark.parametrize("kwargs, size", [({}, (3, 4)), ({"stem": "imagenet"}, (16, 16))])
@torch.no_grad()
def test_training_batch_of_one_is_refused_where_last_map_is_one_pixel(kwargs, size):
    model = tiny_model(**kwargs)
    statistics = model.resnet.backbone.bn1.running_mean.clone()
    with pytest.raises(ValueError, match="batch of one"):
        model(images(1, *size))
    assert torch.equal(model.resnet.backbone.bn1.running_mean, statistics)
    assert model(images(1, size[0], size[1] + 1)).logits.shape == (1, 5)
    assert model(images(2, *size)).logits.shape == (2, 5)
    assert model.eval()(images(1, *size)).logits.shape == (1, 5)


@torch.no_grad()
def test_dropout_only_in_training():
    model, plain = tiny_model(dropout=0.5), tiny_model()
    assert not torch.equal(model(images()).logits, plain(images()).logits)
    assert not torch.equal(model(images()).logits, model(images()).logits)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images()).logits, plain.eval()(images()).logits)


def test_train_and_eval_set_all_modules():
    model = tiny_model()
    for mode in (True, False, True):
        next(model.resnet.modules()).training = not mode
        assert model.train(mode) is model
        assert {module.training for module in model.modules()} == {mode}
        model.get_submodule("resnet.backbone").eval()  # as for frozen statistics
