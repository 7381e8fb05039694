"""Configuration of a ResNet for small images. Travels to the Hub with every checkpoint."""

from transformers import PreTrainedConfig

# (block, stage depths) of the ResNets in table 1 of He et al. 2015, https://arxiv.org/abs/1512.03385
STANDARD_DEPTHS = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
    101: ("bottleneck", [3, 4, 23, 3]),
    152: ("bottleneck", [3, 8, 36, 3]),
}
STANDARD_WIDTHS = [64, 128, 256, 512]
# Raised when a field changes its meaning; `from_pretrained` reads all up to this one.
FORMAT_VERSION = 1
BLOCKS = ("basic", "bottleneck")
STEMS = ("cifar", "imagenet")


class CifarResNetConfig(PreTrainedConfig):
    """
    Shape of a [`CifarResNetForImageClassification`].

    Give either `depth`, or `block` with `stage_depths`; with nothing given it is ResNet-50. After construction
    `block`, `stage_depths` and `stage_widths` are always filled in, and `depth` is None for blocks and depths of one's
    own.

    Args:
        depth (`int`, *optional*): 18, 34, 50, 101 or 152, the ResNets of He et al. 2015, table 1.
        block (`str`, *optional*): `"basic"` (two 3x3 convolutions) or `"bottleneck"` (1x1, 3x3, 1x1, output 4 times
            as wide as the stage).
        stage_depths (`list[int]`, *optional*): blocks in each stage. Every stage but the first halves the resolution.
        stage_widths (`list[int]`, *optional*, defaults to 64, 128, 256, 512): channels of each stage; the stem has as
            many as the first.
        stem (`str`, defaults to `"cifar"`): `"cifar"` is a 3x3 convolution of stride 1 without max-pool (section 4.2
            of the paper); `"imagenet"` the 7x7 convolution of stride 2 with max-pool (its table 1).
        dropout (`float`, defaults to 0.0): probability of zeroing each pooled feature before the classifier.
        drop_path_rate (`float`, defaults to 0.0): in training, probability of dropping the last block's residual
            branch for an image; it rises linearly over the blocks from 0 at the stem (Huang et al. 2016,
            https://arxiv.org/abs/1603.09382).
        zero_init_residual (`bool`, defaults to `False`): start every block's last BatchNorm weight at 0, so that each
            block starts as the identity (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1).
        num_channels (`int`, defaults to 3): channels of the images.
        format_version (`int`, defaults to 1): of the file that it was read from; not to be given.
        calibration_temperature (`float`, defaults to 1.0): what to divide the logits by before the softmax, where
            probabilities are shown (Guo et al. 2017, https://arxiv.org/abs/1706.04599). The logits are without it.

    Raises:
        ValueError: for a combination that describes no network, or a file of a later version than this one.
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

    def __post_init__(self, **kwargs):
        self.resolve_shape()
        # Whatever it was read from, it is written as this version.
        self.format_version = FORMAT_VERSION
        super().__post_init__(**kwargs)
        # Where the Auto classes find the code, in the folder of the checkpoint.
        self.auto_map = {
            "AutoConfig": "configuration_cifar_resnet.CifarResNetConfig",
            "AutoModel": "modeling_cifar_resnet.CifarResNetModel",
            "AutoModelForImageClassification": "modeling_cifar_resnet.CifarResNetForImageClassification",
        }

    def resolve_shape(self):
        """Fills in what the given arguments imply. Raises ValueError where they contradict each other."""
        for name in ("stage_depths", "stage_widths"):
            if isinstance(getattr(self, name), tuple):
                setattr(self, name, list(getattr(self, name)))
        if not _is_positive_int(self.format_version) or self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"format_version {self.format_version} is later than this hf_cifar_resnet knows ({FORMAT_VERSION}): "
                "update the package, or load it with trust_remote_code=True"
            )
        self._fill_in()
        self._validate()

    def _fill_in(self):
        if self.depth is None and self.block is None and self.stage_depths is None:
            self.depth = 50
        if self.depth is not None:
            if self.depth not in list(STANDARD_DEPTHS):
                raise ValueError(f"depth must be one of {', '.join(map(str, STANDARD_DEPTHS))}, got {self.depth!r}")
            block, stage_depths = STANDARD_DEPTHS[self.depth]
            for name, implied in (("block", block), ("stage_depths", stage_depths)):
                given = getattr(self, name)
                if given not in (None, implied):
                    raise ValueError(f"depth {self.depth} means {name} {implied}, got {given}: give one or the other")
            self.block, self.stage_depths = block, list(stage_depths)
        if self.block is None or self.stage_depths is None:
            raise ValueError("give both block and stage_depths (or only depth)")
        if self.depth is None:
            shape = (self.block, self.stage_depths)
            self.depth = next((depth for depth, standard in STANDARD_DEPTHS.items() if shape == standard), None)
        if self.stage_widths is None:
            if not isinstance(self.stage_depths, list) or len(self.stage_depths) > len(STANDARD_WIDTHS):
                raise ValueError(f"stage_depths {self.stage_depths} needs stage_widths of the same length")
            self.stage_widths = STANDARD_WIDTHS[: len(self.stage_depths)]

    def _validate(self):
        for name, value, choices in (("block", self.block, BLOCKS), ("stem", self.stem, STEMS)):
            if value not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")
        for name in ("stage_depths", "stage_widths"):
            values = getattr(self, name)
            if not isinstance(values, list) or not values or not all(_is_positive_int(v) for v in values):
                raise ValueError(f"{name} must be a list of integers above 0, got {values!r}")
        if len(self.stage_depths) != len(self.stage_widths):
            raise ValueError(
                "stage_depths and stage_widths must have the same length, "
                f"got {self.stage_depths} and {self.stage_widths}"
            )
        for name in ("dropout", "drop_path_rate"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}")
        if not self.calibration_temperature > 0:
            raise ValueError(f"calibration_temperature must be above 0, got {self.calibration_temperature!r}")
        if not _is_positive_int(self.num_channels):
            raise ValueError(f"num_channels must be an integer above 0, got {self.num_channels!r}")


def _is_positive_int(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


__all__ = ["CifarResNetConfig"]
