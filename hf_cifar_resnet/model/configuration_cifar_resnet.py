"""Configuration of a ResNet for small images. Uploaded to the Hub with every checkpoint."""

import math
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

if TYPE_CHECKING:
    # Transformers keeps remote code apart by the configuration's file and the files that it names. Without the model's,
    # a process that loads two checkpoints with unlike code would run the code of the first one for both.
    from .modeling_cifar_resnet import CifarResNetPreTrainedModel  # noqa: F401

STANDARD_WIDTHS, CIFAR_WIDTHS = [64, 128, 256, 512], [16, 32, 64]
# (block, stage depths, stage widths) of ResNets of He et al. 2015, https://arxiv.org/abs/1512.03385
STANDARD_DEPTHS = {
    # Table 1, for ImageNet, as in torchvision.
    18: ("basic", [2, 2, 2, 2], STANDARD_WIDTHS),
    34: ("basic", [3, 4, 6, 3], STANDARD_WIDTHS),
    50: ("bottleneck", [3, 4, 6, 3], STANDARD_WIDTHS),
    101: ("bottleneck", [3, 4, 23, 3], STANDARD_WIDTHS),
    152: ("bottleneck", [3, 8, 36, 3], STANDARD_WIDTHS),
    # Section 4.2, for CIFAR: 6n + 2 layers. At the start of a stage the paper's shortcut pads with zeros, and ours is
    # a 1x1 convolution with BatchNorm as in torchvision, with 2,752 weights more.
    **{6 * n + 2: ("basic", [n, n, n], CIFAR_WIDTHS) for n in (3, 5, 7, 9)},
}
# To be increased when a field changes its meaning; `from_pretrained` reads all versions up to this one.
FORMAT_VERSION = 1
BLOCKS = ("basic", "bottleneck")
STEMS = ("cifar", "imagenet")
DTYPES = ("float32", "float16", "bfloat16", "float64")
# A configuration file may ask for a model that fills the memory.
MAX_WEIGHTS, MAX_LABELS = 10**9, 10**6
# These choose code to run, also from the Hub, and this model has no attention.
ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


class CifarResNetConfig(PreTrainedConfig):
    """
    Shape of a [`CifarResNetForImageClassification`].

    Give either `depth`, or `block` with `stage_depths`; the default is ResNet-50. After construction `block`,
    `stage_depths` and `stage_widths` are always set. `depth` is that of the standard ResNet with the same `block` and
    `stage_depths`, whatever the widths, and None where there is none.

    Args:
        depth (`int`, *optional*): 18, 34, 50, 101 or 152 (He et al. 2015, table 1); or 20, 32, 44 or 56, the narrow
            ones for CIFAR (section 4.2), here with projections as shortcuts at the start of a stage.
        block (`str`, *optional*): `"basic"` (two 3x3 convolutions) or `"bottleneck"` (1x1, 3x3, 1x1, 4 times as wide).
        stage_depths (`list[int]`, *optional*): blocks in each stage. Every stage but the first halves the resolution.
        stage_widths (`list[int]`, *optional*): channels of each stage; the stem has as many as the first. By default
            16, 32, 64 for a `depth` of 20, 32, 44 or 56, and 64, 128, 256, 512 for all else.
        stem (`str`, defaults to `"cifar"`): `"cifar"` is a 3x3 convolution of stride 1 without max-pool (section 4.2
            of the paper); `"imagenet"` the 7x7 convolution of stride 2 with max-pool (its table 1).
        dropout (`float`, defaults to 0.0): probability of zeroing each pooled feature before the classifier.
        drop_path_rate (`float`, defaults to 0.0): stochastic depth (Huang et al. 2016,
            https://arxiv.org/abs/1603.09382): probability of dropping the last block's residual branch for an image
            in training; it rises linearly from 0 at the stem.
        zero_init_residual (`bool`, defaults to `False`): start every block as the identity, with the weight of its
            last BatchNorm at 0 (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1).
        num_channels (`int`, defaults to 3): channels of the images.
        format_version (`int`): version of the file; set automatically.
        calibration_temperature (`float`, defaults to 1.0): divisor of the logits before the softmax when probabilities
            are shown (Guo et al. 2017, https://arxiv.org/abs/1706.04599). The model's logits are not divided.

    Raises:
        ValueError: for contradictory arguments, or a file of a later version.
    """

    model_type = "cifar_resnet"

    depth: int | None = None
    block: str | None = None
    stage_depths: list[int] | None = None
    stage_widths: list[int] | None = None
    stem: str = "cifar"
    dropout: float = 0.0
    drop_path_rate: float = 0.0
    zero_init_residual: bool = False
    num_channels: int = 3
    format_version: int = FORMAT_VERSION
    calibration_temperature: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_common(kwargs)
        self.resolve_shape()
        self.format_version = FORMAT_VERSION
        kwargs = {name: value for name, value in kwargs.items() if name not in ATTENTION}
        super().__post_init__(**kwargs)
        # The Auto classes find the code in the checkpoint's folder.
        self.auto_map: dict[str, str] = {
            "AutoConfig": "configuration_cifar_resnet.CifarResNetConfig",
            "AutoModel": "modeling_cifar_resnet.CifarResNetModel",
            "AutoModelForImageClassification": "modeling_cifar_resnet.CifarResNetForImageClassification",
        }

    def resolve_shape(self) -> None:
        """Set the fields that the given ones imply. Raises `ValueError` if they contradict each other."""
        for name in ("stage_depths", "stage_widths"):
            if isinstance(getattr(self, name), tuple):
                setattr(self, name, list(getattr(self, name)))
        if self.depth is None and self.block is None and self.stage_depths is None:
            self.depth = 50
        if self.depth is not None:
            if self.depth not in list(STANDARD_DEPTHS):
                raise ValueError(f"depth must be one of {', '.join(map(str, STANDARD_DEPTHS))}, got {self.depth!r}")
            block, stage_depths, stage_widths = STANDARD_DEPTHS[self.depth]
            for name, implied in (("block", block), ("stage_depths", stage_depths)):
                given = getattr(self, name)
                if given not in (None, implied):
                    raise ValueError(f"depth {self.depth} means {name} {implied}, got {given!r}: give one or the other")
            self.block, self.stage_depths = block, list(stage_depths)
            self.stage_widths = list(stage_widths) if self.stage_widths is None else self.stage_widths
        if self.block is None or self.stage_depths is None:
            raise ValueError("give both block and stage_depths (or only depth)")
        if self.depth is None:
            shape = (self.block, self.stage_depths)
            self.depth = next((depth for depth, standard in STANDARD_DEPTHS.items() if shape == standard[:2]), None)
        if self.stage_widths is None and isinstance(self.stage_depths, list):
            self.stage_widths = STANDARD_WIDTHS[: len(self.stage_depths)]
        self._check_values()

    def _check_common(self, kwargs: dict[str, Any]) -> None:
        """Check the fields that every configuration of transformers has."""
        model_type = kwargs.get("model_type", self.model_type)
        if model_type != self.model_type:
            raise ValueError(f"model_type must be {self.model_type}, got {model_type!r}")
        if not _is_positive_int(self.format_version) or self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"format_version {self.format_version!r} is later than this hf_cifar_resnet knows ({FORMAT_VERSION}): "
                "update the package, or load it with trust_remote_code=True"
            )
        dtype = self.dtype if self.dtype is not None else kwargs.get("torch_dtype")
        if dtype is not None and str(dtype).removeprefix("torch.") not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        problem = self.problem_type
        if problem not in (None, "single_label_classification"):
            raise ValueError(
                f"problem_type must be single_label_classification, the only one it trains, got {problem!r}"
            )
        count, names = kwargs.get("num_labels"), self.id2label
        if count is not None and not (_is_positive_int(count) and count <= MAX_LABELS):
            raise ValueError(f"num_labels must be an integer from 1 to {MAX_LABELS:,}, got {count!r}")
        if names is not None:
            if not isinstance(names, dict) or {str(number) for number in names} != set(map(str, range(len(names)))):
                raise ValueError(f"id2label must name each class number from 0 on, got {names!r:.200}")
            if not names or not all(isinstance(name, str) for name in names.values()):
                raise ValueError(f"id2label must have a text for each class, got {names!r:.200}")

    def _check_values(self) -> None:
        for name, value, choices in (("block", self.block, BLOCKS), ("stem", self.stem, STEMS)):
            if value not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")
        for name in ("stage_depths", "stage_widths"):
            values = getattr(self, name)
            if not isinstance(values, list) or not values or not all(_is_positive_int(v) for v in values):
                raise ValueError(f"{name} must be a list of integers above 0, got {values!r}")
        depths, widths = self.stage_depths or [], self.stage_widths or []
        if len(depths) != len(widths):
            raise ValueError(f"stage_depths and stage_widths must have the same length, got {depths} and {widths}")
        for name in ("dropout", "drop_path_rate"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}")
        temperature = self.calibration_temperature
        if not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
            raise ValueError(f"calibration_temperature must be above 0, got {temperature!r}")
        if not isinstance(self.zero_init_residual, bool):
            raise ValueError(f"zero_init_residual must be true or false, got {self.zero_init_residual!r}")
        if not _is_positive_int(self.num_channels):
            raise ValueError(f"num_channels must be an integer above 0, got {self.num_channels!r}")
        # About as many: a block has 17 or 18 times the square of its width, besides its downsampling shortcut.
        blocks = sum(18 * depth * width**2 for depth, width in zip(depths, widths, strict=True))
        if blocks + 49 * self.num_channels * widths[0] > MAX_WEIGHTS:
            raise ValueError(
                f"stage_widths, stage_depths and num_channels must not make more than {MAX_WEIGHTS:,} weights"
            )


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


__all__ = ["CifarResNetConfig"]
