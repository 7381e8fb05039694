"""The record of a run (`run.json`): what was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..data.arguments import DataArguments
from ..documents import write_json
from ..errors import explained
from .arguments import GIVEN, RunArguments
from .fields import Fields
from .redaction import redact

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class DatasetRecord:
    """
    The data of a run.

    Attributes:
        id: the Hub id, or the name of a folder or of a built-in dataset.
        name: its last part.
        config: the name of the configuration on the Hub.
        image_size: height and width of the images that the model gets, in pixels.
        revision, license, citation: what is known of a dataset from its card.
        train, validation, test: numbers of images.
        scored_images: identifies the images that the best epoch is chosen on, to compare runs.
    """

    id: str
    name: str
    config: str | None
    on_hub: bool
    built_in: bool
    image_size: int
    revision: str | None
    license: str | None
    citation: str | None
    num_labels: int
    train: int
    validation: int
    test: int
    scored_images: str | None = None

    @classmethod
    def from_fields(cls, fields: Fields) -> DatasetRecord:
        return cls(
            id=fields.text("id"),
            name=fields.text("name"),
            config=fields.optional_text("config"),
            on_hub=fields.boolean("on_hub"),
            built_in=fields.boolean("built_in"),
            image_size=fields.integer("image_size"),
            revision=fields.optional_text("revision"),
            license=fields.optional_text("license"),
            citation=fields.optional_text("citation"),
            num_labels=fields.integer("num_labels"),
            train=fields.integer("train"),
            validation=fields.integer("validation"),
            test=fields.integer("test"),
            scored_images=fields.optional_text("scored_images"),
        )

    def num_images(self, split: str) -> int:
        """Return the number of images of a split, `train`, `validation` or `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


@dataclass(frozen=True)
class ModelRecord:
    """
    The model of a run.

    Attributes:
        name: such as `resnet50`.
        path: the run's folder as the card names it, or the repository on the Hub, to load it from.
        description: name, stem and number of parameters, for readers.
        parameters: their number.
        base: the model that it was fine-tuned from, None if it was trained from scratch.
    """

    name: str
    path: str
    description: str
    parameters: int
    base: str | None = None

    @classmethod
    def from_fields(cls, fields: Fields) -> ModelRecord:
        return cls(
            name=fields.text("name"),
            path=fields.text("path"),
            description=fields.text("description"),
            parameters=fields.integer("parameters"),
            base=fields.optional_text("base"),
        )


@dataclass(frozen=True)
class RunRecord:
    """
    What was run. In the file `command` comes first, by which [`~hf_cifar_resnet.runs.files.RUN_FILES`] knows it.

    Attributes:
        command: the command line, without the value of `--hub_token`.
        id: identifies the run, and a resumed run keeps it. Former versions wrote none.
        given: the arguments as they were given. Former versions wrote none.
        arguments: the resolved arguments of the training that decide its result.
        model_arguments, data_arguments: all resolved ones of the model and of the data.
        precision: `fp32`, `bf16` or `fp16`.
        processes: how many trained together.
        hardware: such as `1 x NVIDIA L4`.
        changed_arguments: for each argument that a resumed run changed, all its values, oldest first.
        versions: of this package and of those that it is built on.
    """

    command: Sequence[str]
    dataset: DatasetRecord
    model: ModelRecord
    arguments: Mapping[str, Any]
    precision: Precision
    hardware: str
    id: str | None = None
    given: RunArguments | None = None
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    data_arguments: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    changed_arguments: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def schedule(self) -> str:
        """The learning-rate schedule."""
        return self.arguments["lr_scheduler_type"]

    @property
    def seed(self) -> int:
        return self.arguments["seed"]

    @classmethod
    def read(cls, path: str | Path) -> RunRecord:
        """Read a `run.json`. Raises `OSError`, or `ValueError`, which names file and field, if it is damaged."""
        return cls.from_fields(Fields.read(path))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], file: str | Path = "the run record") -> RunRecord:
        """Return the record with the content of a `run.json`. Raises `ValueError` if something is missing or wrong."""
        return cls.from_fields(Fields(content, file))

    @classmethod
    def from_fields(cls, fields: Fields) -> RunRecord:
        arguments = fields.section("arguments")
        # All others have defaults for runs that do not have them.
        arguments.text("lr_scheduler_type")
        arguments.integer("seed")
        changed, versions = fields.mapping("changed_arguments"), fields.mapping("versions")
        given = RunArguments(fields.mapping(GIVEN)) if GIVEN in fields else None
        return cls(
            command=fields.texts("command"),
            dataset=DatasetRecord.from_fields(fields.section("dataset")),
            model=ModelRecord.from_fields(fields.section("model")),
            arguments=arguments.content,
            precision=_precision(fields),
            hardware=fields.text("hardware"),
            id=fields.optional_text("id"),
            given=given,
            model_arguments=fields.mapping("model_arguments"),
            data_arguments=fields.mapping("data_arguments"),
            processes=fields.integer("processes") if "processes" in fields else 1,
            changed_arguments=changed,
            versions={name: str(version) for name, version in versions.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `run.json`, of plain values."""
        dataset = asdict(self.dataset)
        if self.dataset.scored_images is None:
            del dataset["scored_images"]
        identity: dict[str, Any] = {} if self.id is None else {"id": self.id}
        given = {} if self.given is None else {GIVEN: self.given.to_record()}
        return {
            "command": list(self.command),
            **identity,
            **given,
            "dataset": dataset,
            "model": asdict(self.model),
            "arguments": dict(self.arguments),
            "model_arguments": dict(self.model_arguments),
            "data_arguments": dict(self.data_arguments),
            "precision": self.precision,
            "processes": self.processes,
            "hardware": self.hardware,
            "changed_arguments": {name: list(values) for name, values in self.changed_arguments.items()},
            "versions": dict(self.versions),
        }

    def write(self, path: str | Path) -> None:
        """Write it as JSON, atomically. Raises `OSError` if the file cannot be written."""
        write_json(self.to_dict(), path)

    def redacted(self) -> RunRecord:
        """Return the record without tokens and local paths."""
        return RunRecord.from_dict(redact(self.to_dict()))

    def with_path(self, path: str) -> RunRecord:
        """Return the record of the same run with another place to load its model from, such as a repository."""
        return replace(self, model=replace(self.model, path=path))

    def build_data_arguments(self) -> DataArguments | None:
        """
        Return the resolved arguments of the data, or None if the record has none. Raises `ValueError` if one of them is
        of another type, or cannot be.
        """
        if not self.data_arguments:
            return None
        with explained("the data_arguments of run.json", ValueError):
            return RunArguments(self.data_arguments).build(DataArguments)


def _precision(fields: Fields) -> Precision:
    value = fields.text("precision")
    if value not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"{fields.file} is damaged: precision must be fp32, bf16 or fp16, got {value!r}")
    return value


def enum_value(value: Any) -> Any:
    """Return the value of a member of an enumeration, and any other value as it is."""
    return getattr(value, "value", value)
