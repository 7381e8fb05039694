"""torchvision's ResNet as a transformers model. Uploaded to the Hub with every checkpoint."""

import math
from typing import Any, Self, cast

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import stochastic_depth
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.utils.generic import can_return_tuple

from .configuration_cifar_resnet import STANDARD_WIDTHS, CifarResNetConfig


class CifarBasicBlock(BasicBlock):
    """torchvision's block, with stochastic depth of probability `drop_path` for each image."""

    drop_path: float = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return _add_shortcut(self, x, branch)


class CifarBottleneck(Bottleneck):
    """torchvision's block, with stochastic depth of probability `drop_path` for each image."""

    drop_path: float = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return _add_shortcut(self, x, self.bn3(self.conv3(hidden)))


def _add_shortcut(block: CifarBasicBlock | CifarBottleneck, x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
    """Return the output of a block from its input and its residual branch, which may be dropped in training."""
    shortcut = x if block.downsample is None else block.downsample(x)
    branch = stochastic_depth(branch, block.drop_path, "row", block.training)
    branch += shortcut
    return block.relu(branch)


def _make_stage(
    block: type[CifarBasicBlock] | type[CifarBottleneck], in_channels: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    """Return `depth` blocks, of which the first has the stride, with torchvision's names of parameters."""
    out_channels = width * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))
    first = block(in_channels, width, stride, downsample)
    return nn.Sequential(first, *(block(out_channels, width) for _ in range(depth - 1)))


class CifarResNetBackbone(nn.Module):
    """
    torchvision's ResNet without its classifier, with the configuration's stem, widths and number of stages.

    The blocks and the names of all parameters are torchvision's, whose own class fixes the stem and the widths.
    """

    def __init__(self, config: CifarResNetConfig):
        super().__init__()
        depths, widths = config.stage_depths, config.stage_widths
        assert depths is not None and widths is not None  # `resolve_shape` has set them
        channels = widths[0]
        imagenet = config.stem == "imagenet"
        kernel, stride, padding = (7, 2, 3) if imagenet else (3, 1, 1)
        self.conv1: nn.Conv2d = nn.Conv2d(config.num_channels, channels, kernel, stride, padding, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(channels)
        self.relu: nn.ReLU = nn.ReLU(inplace=True)
        self.maxpool: nn.MaxPool2d | nn.Identity = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        block = CifarBottleneck if config.block == "bottleneck" else CifarBasicBlock
        self.stage_names: list[str] = [f"layer{i + 1}" for i in range(len(depths))]
        for i, name in enumerate(self.stage_names):
            width, stride = widths[i], 1 if i == 0 else 2
            self.add_module(name, _make_stage(block, channels, width, depths[i], stride))
            channels = width * block.expansion
        blocks = [block for name in self.stage_names for block in getattr(self, name)]
        for number, residual_block in enumerate(blocks, 1):
            residual_block.drop_path = config.drop_path_rate * number / len(blocks)
            # A mark for `_init_weights`, which sees only the module that has the weight.
            last = residual_block.bn3 if config.block == "bottleneck" else residual_block.bn2
            last.starts_at_zero = config.zero_init_residual
        self.avgpool: nn.AdaptiveAvgPool2d = nn.AdaptiveAvgPool2d((1, 1))
        self.total_stride: int = (4 if imagenet else 1) * 2 ** (len(self.stage_names) - 1)
        self.num_features: int = channels

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature maps of the stem and of each stage, `(batch, channels, height, width)`."""
        features = [self.maxpool(self.relu(self.bn1(self.conv1(pixel_values))))]
        for name in self.stage_names:
            features.append(getattr(self, name)(features[-1]))
        return features


class CifarResNetPreTrainedModel(PreTrainedModel):
    config: CifarResNetConfig
    config_class: type[PreTrainedConfig] | None = CifarResNetConfig
    base_model_prefix = "resnet"
    main_input_name = "pixel_values"
    input_modalities: str | list[str] = ["image"]
    _no_split_modules = ["CifarBasicBlock", "CifarBottleneck"]
    # The loss is a mean over the batch, so the Trainer divides it by the number of accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: CifarResNetConfig):
        # `from_pretrained(folder, depth=18)` changes a configuration after its construction.
        config.resolve_shape()
        super().__init__(config)

    def train(self, mode: bool = True) -> Self:
        # transformers' Trainer calls this at every step, and setting the mode of all modules takes longer than a look.
        changes = any(module.training != mode for module in self.modules())
        return super().train(mode) if changes else self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as torchvision's ResNet does (He et al. 2015, https://arxiv.org/abs/1502.01852, fan-out mode)."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            if getattr(module, "starts_at_zero", False):
                init.zeros_(module.weight)
            else:
                init.ones_(module.weight)
            init.zeros_(module.bias)
            if module.running_mean is not None and module.running_var is not None:
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
            if module.num_batches_tracked is not None:
                init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Linear):  # as `nn.Linear` itself
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)


class CifarResNetModel(CifarResNetPreTrainedModel):
    """A ResNet without classifier."""

    def __init__(self, config: CifarResNetConfig):
        super().__init__(config)
        self.backbone: CifarResNetBackbone = CifarResNetBackbone(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """
        Return `last_hidden_state` `(batch, channels, h, w)`, `pooler_output` `(batch, channels, 1, 1)` and, with
        `output_hidden_states`, the feature maps of the stem and of each stage as `hidden_states`.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, height, width)`): normalised images.

        Raises:
            ValueError: for a training batch of one image if the last feature map is 1x1.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        one_pixel = max(pixel_values.shape[-2:]) <= self.backbone.total_stride
        if self.training and pixel_values.shape[0] == 1 and one_pixel:
            raise ValueError(
                "cannot train on a batch of one image here: the last feature map is 1x1, so BatchNorm would have one "
                "value per channel. Use a larger batch, or dataloader_drop_last if it is the last one of an epoch."
            )
        features = self.backbone(pixel_values)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=features[-1],
            pooler_output=self.backbone.avgpool(features[-1]),
            hidden_states=tuple(features) if output_hidden_states else None,
        )


class CifarResNetForImageClassification(CifarResNetPreTrainedModel):
    """A ResNet with dropout and a linear classifier on its pooled features."""

    def __init__(self, config: CifarResNetConfig):
        super().__init__(config)
        self.num_labels: int = cast(int, config.num_labels)
        self.resnet: CifarResNetModel = CifarResNetModel(config)
        self.dropout: nn.Dropout = nn.Dropout(config.dropout)
        self.classifier: nn.Linear = nn.Linear(self.resnet.backbone.num_features, self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> ImageClassifierOutputWithNoAttention:
        """
        Return `loss`, the mean cross-entropy of the batch in float32 (if labels are given), `logits`
        `(batch, num_labels)` and, with `output_hidden_states`, the feature maps of the stem and of each stage as
        `hidden_states`.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, height, width)`): normalised images.
            labels (`torch.LongTensor` of shape `(batch,)`, or float `(batch, num_labels)`, *optional*): class numbers,
                or class probabilities, in rows that sum to 1.
        """
        outputs = self.resnet(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)
        logits = self.classifier(self.dropout(outputs.pooler_output.flatten(1)))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    @classmethod
    def from_torchvision(cls, module: torchvision.models.ResNet, **config_kwargs: Any) -> Self:
        """
        Return a model with the architecture and a copy of the weights of a torchvision ResNet.

        Args:
            module (`torchvision.models.ResNet`): ResNet-18 to 152, as torchvision makes it, or with a 3x3 stride 1
                `conv1` and an Identity as `maxpool`.
            config_kwargs: further arguments of [`CifarResNetConfig`], such as `id2label`.

        Raises:
            ValueError: for any other module (ResNeXt, wide, dilated, another stem).
        """
        if not isinstance(module, torchvision.models.ResNet) or not isinstance(module.fc, nn.Linear):
            raise ValueError(f"expected a torchvision ResNet with a linear classifier, got {type(module).__name__}")
        shape = {
            "block": "basic" if isinstance(module.layer1[0], BasicBlock) else "bottleneck",
            "stage_depths": [len(stage) for stage in (module.layer1, module.layer2, module.layer3, module.layer4)],
            "stem": "cifar" if isinstance(module.maxpool, nn.Identity) else "imagenet",
            "num_labels": module.fc.out_features,
        }
        model = cls(CifarResNetConfig(**shape | config_kwargs))
        # A module's repr shows every stride, padding, activation and epsilon.
        if repr(_build_torchvision(model.config)) != repr(module):
            raise ValueError("this is not a plain torchvision ResNet (ResNeXt, wide, dilated and changed ones are not)")
        weights = module.state_dict()
        model.classifier.load_state_dict({name: weights.pop(f"fc.{name}") for name in ("weight", "bias")})
        model.resnet.backbone.load_state_dict(weights)
        return model.train(module.training)

    def to_torchvision(self) -> torchvision.models.ResNet:
        """
        Return a `torchvision.models.ResNet` with a copy of the weights, the inverse of [`from_torchvision`].

        Raises:
            ValueError: if torchvision's ResNet lacks something: other stages or widths, dropout, stochastic depth.
        """
        if self.config.dropout > 0 or self.config.drop_path_rate > 0:
            raise ValueError("torchvision's ResNet has no dropout and no stochastic depth")
        module = _build_torchvision(self.config)
        module.load_state_dict(self.resnet.backbone.state_dict() | self.classifier.state_dict(prefix="fc."))
        return module.train(self.training)


def _build_torchvision(config: CifarResNetConfig) -> torchvision.models.ResNet:
    if config.stage_widths != STANDARD_WIDTHS or config.num_channels != 3:
        raise ValueError("torchvision's ResNet has four stages of 64, 128, 256 and 512 channels, and RGB input")
    block = Bottleneck if config.block == "bottleneck" else BasicBlock
    assert config.stage_depths is not None  # `resolve_shape` has set them
    module = torchvision.models.ResNet(block, config.stage_depths, num_classes=cast(int, config.num_labels))
    if config.stem == "cifar":
        module.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        module.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return module


__all__ = ["CifarResNetForImageClassification", "CifarResNetModel", "CifarResNetPreTrainedModel"]
