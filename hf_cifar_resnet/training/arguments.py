"""The arguments of a run: the model, and the Trainer's with this package's defaults."""

# Where None is the default here, it stands for a choice that depends on the device, and is none after construction.
# pyright: reportIncompatibleVariableOverride=false

import copy
import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.utils.import_utils import is_in_notebook, is_torch_tf32_available

from .. import schedules
from ..data.arguments import DataArguments, argument
from ..device import count_cores, device_for, is_faster_in_bf16, known_names
from ..errors import expand_home, explained
from ..processes import is_launched, read_count, wait_for_processes
from ..runs.arguments import RunArguments
from ..runs.record import enum_value
from . import callbacks, optimizers

if TYPE_CHECKING:
    from torch import nn

# Those of `model/`, which takes seconds to import.
DEPTHS, CIFAR_DEPTHS = (18, 34, 50, 101, 152), (20, 32, 44, 56)
BLOCKS, STEMS = ("basic", "bottleneck"), ("cifar", "imagenet")
LR_BATCH = 256  # the batch size that `lr_scaling` scales from
OUR_DEFAULT = "our default"  # the source of a precision that nobody chose
LIMIT = 2**32  # of integers, above which seeds are invalid
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")  # of torch.compile
_SMALL = "it is for models that do not fit one device; `accelerate launch --multi_gpu` trains on several"
_FOR_LANGUAGE = "it is for language models"
_ROUNDS = "it would round the weights that are saved; evaluations have the precision of the training"
_CHECKPOINTED = "it would update the BatchNorm statistics twice a step; use gradient_accumulation_steps instead"
UNSUPPORTED = {
    "fsdp": _SMALL,
    "deepspeed": _SMALL,
    "parallelism_config": _SMALL,
    "use_liger_kernel": _FOR_LANGUAGE,
    "neftune_noise_alpha": _FOR_LANGUAGE,
    "gradient_checkpointing": _CHECKPOINTED,
    "activation_checkpointing": _CHECKPOINTED,
    "bf16_full_eval": _ROUNDS,
    "fp16_full_eval": _ROUNDS,
    "enable_jit_checkpoint": "train.py saves on SIGTERM and other signals in every process",
}
# Environment variables of `accelerate launch`, and what they turn on.
LAUNCHED_METHODS = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
# Those that Accelerate reads as true or false, and how it spells both.
LAUNCHED_FLAGS = (
    *LAUNCHED_METHODS, "ACCELERATE_USE_CPU", "ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY",
    "ACCELERATE_DYNAMO_USE_DYNAMIC", "ACCELERATE_DYNAMO_USE_FULLGRAPH", "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION",
)  # fmt: skip
TRUE, FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")
# Those that would act, or have no effect, without a trace in the record, and our own arguments.
LAUNCHED_ARGUMENTS = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "gradient_accumulation_steps",
    "ACCELERATE_GRADIENT_CLIPPING": "max_grad_norm",
    "ACCELERATE_DYNAMO_BACKEND": "torch_compile_backend",
}
NEED_WORKERS = ("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context")
# Those whose values only the machine that trains can check.
OF_THE_MACHINE = ("bf16", "fp16", "tf32", "sync_batchnorm", "dataloader_num_workers", *NEED_WORKERS)
# What a number of steps belongs to.
EVERY_STEPS = {"eval_steps": "eval_strategy", "save_steps": "save_strategy", "logging_steps": "logging_strategy"}
# Numbers that must be above 0, at least 0, from 0 to 1, and from 0 to below 1.
POSITIVE = (
    "num_train_epochs", "learning_rate", "global_batch_size", "per_device_train_batch_size",
    "per_device_eval_batch_size", "gradient_accumulation_steps", "early_stopping_patience", "eval_steps", "save_steps",
    "logging_steps", "eval_accumulation_steps",
)  # fmt: skip
NOT_NEGATIVE = (
    "weight_decay", "max_grad_norm", "seed", "data_seed", "dataloader_num_workers", "mixup_alpha", "cutmix_alpha",
    "mixing_stop_epoch", "adam_epsilon",
)  # fmt: skip
SHARES = ("mixing_probability", "cutmix_share")
SHARES_BELOW_1 = ("ema_decay", "adam_beta1", "adam_beta2", "label_smoothing_factor")


@dataclass(frozen=True)
class ModelArguments:
    """The network: `depth`, or `block` with `stage_depths` (and `stage_widths`), or a pretrained one."""

    model_name_or_path: str | None = argument(None, "model to fine-tune: a folder, user/repo or user/repo@revision")
    depth: int | None = argument(
        None, f"layers: {', '.join(map(str, DEPTHS))}, or narrow {', '.join(map(str, CIFAR_DEPTHS))}; 50 if not given"
    )
    stem: str | None = argument(None, "cifar (3x3, the default) or imagenet (7x7, stride 2, max-pool)", choices=STEMS)
    block: str | None = argument(None, "block of a ResNet of your own shape", choices=BLOCKS)
    stage_depths: list[int] | None = argument(None, "blocks in each stage, such as 1 1 1")
    stage_widths: list[int] | None = argument(None, "channels of each stage, such as 16 32 64")
    dropout: float | None = argument(None, "probability of zeroing each feature before the classifier; 0 if not given")
    drop_path_rate: float | None = argument(
        None, "stochastic depth: drop probability of the last block; 0 if not given"
    )
    zero_init_residual: bool | None = argument(None, "start every block as the identity")

    def __post_init__(self) -> None:
        if self.model_name_or_path is not None:
            object.__setattr__(self, "model_name_or_path", os.path.expanduser(self.model_name_or_path))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of [`CifarResNetConfig`] that are not None."""
        return {k: v for k, v in vars(self).items() if v is not None and k != "model_name_or_path"}


@dataclass
class CifarTrainingArguments(TrainingArguments):
    """
    transformers' `TrainingArguments` with the defaults of the reference experiment and a few more arguments. Raises
    `ValueError` for values that cannot work.
    """

    # Ours
    global_batch_size: int = argument(256, "images per optimizer step in all; --per_device_train_batch_size wins")
    lr_scaling: Literal["none", "linear", "sqrt"] = argument(
        "none", f"scale learning_rate by global batch / {LR_BATCH}, or its root"
    )
    mixup_alpha: float = argument(0.0, "MixUp, with weights drawn from Beta(alpha, alpha); 0 is off")
    cutmix_alpha: float = argument(0.0, "CutMix, with box areas drawn from Beta(alpha, alpha); 0 is off")
    mixing_probability: float = argument(1.0, "share of the batches that are mixed, where one of the two is on")
    cutmix_share: float = argument(0.5, "share of the mixed batches that get CutMix, where both are on")
    mixing_stop_epoch: float | None = argument(None, "stop mixing after so many epochs, or below 1 that share")
    ema_decay: float = argument(0.0, "average the weights with this decay, such as 0.999; 0 is off")
    saved_weights: Literal["ema", "raw"] = argument("ema", "with --ema_decay, the weights to evaluate and save")
    sync_batchnorm: bool = argument(False, "BatchNorm statistics over the batches of all GPUs, not of each")
    early_stopping_patience: int | None = argument(None, "stop after so many evaluations without a new best")

    # The Trainer's, with other defaults
    output_dir: str | None = argument(None, "folder of the run; runs/DATASET-MODEL-SCHEDULE-seedN if not given")
    num_train_epochs: float = argument(50.0, "epochs")
    learning_rate: float = argument(1e-3, "the peak of the schedule, before --lr_scaling")
    lr_scheduler_type: str = argument("cosine", f"one of {', '.join(schedules.names())}")
    optim: str = argument("adamw_torch_fused", "such as sgd, muon, schedule_free_adamw; any of the Trainer's")
    weight_decay: float = argument(1e-4, "weight decay, except on biases and BatchNorm")
    label_smoothing_factor: float = argument(0.1, "label smoothing of the training loss; evaluations have none")
    per_device_train_batch_size: int | None = argument(
        None, "images per device and step, instead of --global_batch_size"
    )
    per_device_eval_batch_size: int = argument(256, "images per device and step of evaluation")
    eval_strategy: str = argument("epoch", "when to evaluate: no, steps or epoch")
    save_strategy: str = argument("epoch", "when to save: no, steps, epoch or best")
    logging_strategy: str = argument("epoch", "when to log the training loss: no, steps or epoch")
    save_total_limit: int | None = argument(2, "checkpoints to keep: the best and the last")
    load_best_model_at_end: bool = argument(True, "what is saved and tested is the best model, not the last")
    metric_for_best_model: str | None = argument("top1", "loss, top1, top5 or superclass of the evaluation split")
    bf16: bool | None = argument(None, "bfloat16 autocast; by default on if the GPU or CPU gains by it")
    fp16: bool | None = argument(None, "float16 autocast")
    dataloader_num_workers: int | None = argument(None, "loader workers of training images; 0 on a CPU, up to 8 a GPU")
    dataloader_persistent_workers: bool | None = argument(None, "on by default if there are workers")
    remove_unused_columns: bool = argument(False, "the datasets here have no unused columns")
    # The filter reads the loss at every step, which stalls the device, and hides a NaN.
    logging_nan_inf_filter: bool = argument(False, "hide losses that are not finite")
    ddp_find_unused_parameters: bool | None = argument(
        False, "DDP: search for unused parameters, of which there are none"
    )
    # Evaluations and checkpoints use the statistics of rank 0.
    ddp_broadcast_buffers: bool | None = argument(False, "broadcast the BatchNorm statistics at every step")
    eval_accumulation_steps: int | None = argument(16, "batches of logits to keep on the device while evaluating")
    tf32: bool | None = argument(None, "TF32 for fp32 operations; by default on if the GPU has it")
    restore_callback_states_from_checkpoint: bool = argument(True, "restore the state of early stopping")
    hub_strategy: str = argument("end", "when to push: end, every_save, or checkpoint (with the state to resume)")
    disable_tqdm: bool | None = argument(
        None, "no progress bar; by default if the output is neither a terminal nor a notebook"
    )

    def __post_init__(self) -> None:
        expand_home(self)
        self._check_ranges()
        self._check_support()
        self._check_combinations()
        if str(self.resume_from_checkpoint).lower() == "false":
            self.resume_from_checkpoint: str | None = None
        self._choose_for_device()
        self._check_loader()
        self.lr_scheduler_kwargs: dict[str, Any] = json_object("lr_scheduler_kwargs", self.lr_scheduler_kwargs)
        self.report_to: list[str] = callbacks.parse_report_to(self.report_to)
        self.output_dir_given: bool = self.output_dir is not None
        schedule, is_muon = self.lr_scheduler_type, self.optim == optimizers.MUON
        schedules.check(schedule, self.lr_scheduler_kwargs, self.warmup_steps)
        # TrainingArguments refuses the names of our schedules, and Muon.
        self.lr_scheduler_type, self.optim = "constant", "adamw_torch" if is_muon else self.optim
        # On a CPU Accelerate makes a process group if it is told to use it, else if a launcher names the device.
        makes_group = self.use_cpu or (is_launched() and device_for().type != "cpu")
        with (
            wait_for_processes(self.ddp_timeout) if makes_group else nullcontext(),
            explained("", TypeError, ValueError),
        ):
            super().__post_init__()
        self.lr_scheduler_type, self.optim = schedule, optimizers.MUON if is_muon else self.optim
        if self.precision_source == "flag":  # overrides the launcher
            self.mixed_precision = "fp16" if self.fp16 else "bf16" if self.bf16 else "no"
        self._divide_batch()
        schedules.try_out(
            schedule, self.scaled_learning_rate, self.warmup_steps, self.lr_scheduler_kwargs, self.max_steps
        )
        if schedules.get(schedule).by_evaluations and self.eval_strategy == "no":
            raise ValueError(f"{schedule} needs evaluations to decide by: set eval_strategy")
        self.warmup_steps: float = schedules.get(schedule).resolve_warmup(float(self.warmup_steps))

    def _check_ranges(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
            if isinstance(value, int) and abs(value) >= LIMIT:
                raise ValueError(f"{name} must be below 2**32, got {value}")
        ranges = (
            (POSITIVE, "be above 0", lambda value: value > 0),
            (NOT_NEGATIVE, "not be negative", lambda value: value >= 0),
            (SHARES, "be from 0 to 1", lambda value: 0 <= value <= 1),
            (SHARES_BELOW_1, "be from 0 to below 1", lambda value: 0 <= value < 1),
        )
        for names, expected, is_allowed in ranges:
            for name in names:
                value = getattr(self, name)
                if value is not None and not is_allowed(value):
                    raise ValueError(f"{name} must {expected}, got {value}")

    def _check_support(self) -> None:
        for name, reason in UNSUPPORTED.items():
            if getattr(self, name, None):
                raise ValueError(f"{name} is not supported: {reason}; leave it out")
        self._check_environment()
        for name, method in LAUNCHED_METHODS.items():
            if os.environ.get(name, "false").lower() in TRUE:
                raise ValueError(
                    f"{method} is not supported, and accelerate launch asks for it: choose multi-GPU without it in "
                    "`accelerate config`, or launch with --multi_gpu"
                )
        for name, own in LAUNCHED_ARGUMENTS.items():
            value = os.environ.get(name, "no")
            if value.lower() not in ("", "no", "none", "false", "auto", "1", str(getattr(self, own)).lower()):
                raise ValueError(f"{name}={value} of the launcher is no argument of the run: set {own} instead")
        if not self.eval_do_concat_batches:
            raise ValueError("eval_do_concat_batches must be true, since scores are those of all images together")

    def _check_environment(self) -> None:
        """Raise `ValueError` for variables of Accelerate whose values it refuses without their name, or too late."""
        device = device_for(self.use_cpu)
        expected = {
            **dict.fromkeys(LAUNCHED_FLAGS, ("true or false", (*TRUE, *FALSE))),
            "ACCELERATE_MIXED_PRECISION": ("no, bf16 or fp16", ("no", "bf16", "fp16")),
            "ACCELERATE_TORCH_DEVICE": (device.type, known_names(device)),
        }
        for name, (words, values) in expected.items():
            value = os.environ.get(name)
            if value is not None and value.lower() not in values:
                raise ValueError(f"{name}={value} of the environment must be {words}: change it, or unset it")

    def _check_combinations(self) -> None:
        optimizers.check_name(self.optim)
        optimizers.parse_optim_args(self.optim_args)
        if self.max_steps < 1 and self.max_steps != -1:
            raise ValueError(f"max_steps must be above 0, or -1 for num_train_epochs, got {self.max_steps}")
        workers, max_workers = self.dataloader_num_workers or 0, max(64, 4 * count_cores())
        if workers > max_workers:
            raise ValueError(f"dataloader_num_workers must be at most {max_workers} on this machine, got {workers}")
        if self.sync_batchnorm and device_for(self.use_cpu).type != "cuda":
            raise ValueError("sync_batchnorm needs GPUs, since torch has it for them alone; leave it out")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("early_stopping_patience needs load_best_model_at_end")
        if self.gradient_accumulation_steps > 1 and (captured := self._captures_graphs()):
            raise ValueError(
                f"{captured} captures CUDA graphs, which overwrite the gradients that gradient_accumulation_steps adds "
                "up (pytorch issue 169545): leave one of the two out"
            )
        if self.optim in optimizers.SCHEDULE_FREE:
            if self.ema_decay:
                raise ValueError(f"{self.optim} averages the weights already: leave ema_decay out")
            if self.lr_scheduler_type not in ("constant", "constant_with_warmup"):
                raise ValueError(
                    f"{self.optim} needs no schedule, got {self.lr_scheduler_type}: use constant or "
                    "constant_with_warmup"
                )

    def _captures_graphs(self) -> str | None:
        """Return the argument with which a compiled model captures CUDA graphs, also one of `accelerate launch`."""
        mode = self.torch_compile_mode or os.environ.get("ACCELERATE_DYNAMO_MODE")
        if mode in CUDA_GRAPH_MODES:
            return f"torch_compile_mode {mode}"
        backend = self.torch_compile_backend
        return f"torch_compile_backend {backend}" if backend == "cudagraphs" else None

    def _choose_for_device(self) -> None:
        on_gpu = device_for(self.use_cpu).type == "cuda"
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
        self.precision_source: str = "flag"
        if self.bf16 is None and self.fp16 is None:
            # `accelerate launch` sets "no" by default too, so "no" is not a choice.
            self.precision_source = OUR_DEFAULT if launched == "no" else "Accelerate"
            self.bf16 = launched == "no" and on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        self.bf16, self.fp16 = bool(self.bf16), bool(self.fp16)
        if (self.fp16 or (launched == "fp16" and not self.bf16)) and device_for(self.use_cpu).type == "cpu":
            raise ValueError("fp16 needs a GPU, and Accelerate would use fp32: leave it out, or use bf16")
        if self.bf16:
            # Transformers refuses bf16 on a CPU without `use_cpu`.
            self.use_cpu: bool = self.use_cpu or device_for().type == "cpu"
        if self.dataloader_num_workers is None:
            processes = max(1, read_count("LOCAL_WORLD_SIZE", 1))
            # A process beside a GPU needs a core of its own.
            self.dataloader_num_workers = min(8, max(1, count_cores() // processes) - 1) if on_gpu else 0
        if self.dataloader_persistent_workers is None:
            self.dataloader_persistent_workers = self.dataloader_num_workers > 0
        self.dataloader_pin_memory: bool = self.dataloader_pin_memory and on_gpu
        if on_gpu and self.tf32 is None and is_torch_tf32_available():
            self.tf32 = True
        if self.accelerator_config is None:
            # A blocking copy would wait for all queued work of the GPU.
            self.accelerator_config: Any = {"non_blocking": self.dataloader_pin_memory}
        if self.disable_tqdm is None:
            self.disable_tqdm = not (sys.stderr.isatty() or is_in_notebook())

    def _check_loader(self) -> None:
        if self.dataloader_num_workers:
            return
        for name in NEED_WORKERS:
            if getattr(self, name):
                raise ValueError(f"{name} needs workers: set dataloader_num_workers too, or leave it out")

    def _divide_batch(self) -> None:
        if self.n_gpu > 1:
            # Otherwise the Trainer would use nn.DataParallel; several GPUs need a launcher.
            self._n_gpu = 1
        options = cast(AcceleratorConfig, self.accelerator_config)  # which transformers has made of it
        if (options.gradient_accumulation_kwargs or {}).get("num_steps", 1) != 1:
            raise ValueError("accelerator_config must not have num_steps: set gradient_accumulation_steps instead")
        if self.world_size > 1 and (options.split_batches or options.dispatch_batches or not options.even_batches):
            raise ValueError(
                "accelerator_config must not change split_batches, dispatch_batches or even_batches, which divide the "
                "images among the processes: leave them out"
            )
        parts = self.world_size * self.gradient_accumulation_steps
        self.batch_is_divided: bool = self.per_device_train_batch_size is None
        if self.per_device_train_batch_size is None:
            if self.global_batch_size % parts:
                raise ValueError(
                    f"global_batch_size {self.global_batch_size} does not divide over {self.world_size} processes x "
                    f"{self.gradient_accumulation_steps} accumulation steps: choose a multiple of {parts}"
                )
            self.per_device_train_batch_size = self.global_batch_size // parts
        self.global_batch_size = self.per_device_train_batch_size * parts

    @property
    def scaled_learning_rate(self) -> float:
        """The peak of the schedule, scaled with the batch size (Goyal et al. 2017: linearly)."""
        ratio = self.global_batch_size / LR_BATCH
        return self.learning_rate * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[self.lr_scaling]

    def copy_with(self, **values: Any) -> "CifarTrainingArguments":
        """Return a copy with other values, which are taken as they are: nothing is checked or derived from them."""
        changed = copy.copy(self)
        vars(changed).update(values)
        return changed

    def rebuild_with(self, values: Mapping[str, Any]) -> "CifarTrainingArguments":
        """
        Return arguments with other values, checked like those of a new run, and with what follows from them: the batch
        of each device, the default warmup, the direction of a metric. Raises `ValueError` for what cannot work.
        """
        derived: dict[str, Any] = {}
        if self.batch_is_divided or "global_batch_size" in values:
            derived["per_device_train_batch_size"] = None
        if "metric_for_best_model" in values:
            derived["greater_is_better"] = None
        if self.warmup_steps == schedules.get(self.lr_scheduler_type).default_warmup:
            derived["warmup_steps"] = 0
        # A precision that nobody chose stays, and is not taken for a choice.
        kept = ("bf16", "fp16", "mixed_precision", "precision_source")
        rebuilt = replace(self, **{**derived, **values})
        for name, value in vars(self).items():
            if name not in vars(rebuilt) or (name in kept and not values.keys() & kept):
                setattr(rebuilt, name, value)
        return rebuilt

    def with_precision_for(self, model: "nn.Module") -> "CifarTrainingArguments":
        """Return a copy with bf16 if nobody chose a precision and the CPU is faster with it, else these arguments."""
        if self.precision_source != OUR_DEFAULT or self.bf16 or not is_faster_in_bf16(model, self.device):
            return self
        source = f"{OUR_DEFAULT}, in which this CPU is faster"
        return self.copy_with(bf16=True, mixed_precision="bf16", precision_source=source)

    @property
    def precision(self) -> str:
        """The precision of autocast: fp32, bf16 or fp16."""
        return "fp32" if self.mixed_precision == "no" else self.mixed_precision


@dataclass(frozen=True)
class ResolvedArguments:
    """The arguments of a run on this machine, complete, for its model, data and training; and those that were given."""

    given: RunArguments
    model: ModelArguments
    data: DataArguments
    training: CifarTrainingArguments


def resolve(arguments: RunArguments) -> ResolvedArguments:
    """
    Return the arguments of a run for the machine that trains it: with all defaults, and with what depends on the
    machine (precision, workers, the batch of each device). Raises `ValueError` for arguments that cannot work.
    """
    kinds = (ModelArguments, DataArguments, CifarTrainingArguments)
    known = {field.name for kind in kinds for field in fields(kind) if field.init}
    if unknown := [name for name in arguments if name not in known]:
        raise ValueError(f"unknown argument {unknown[0]}")
    model, data = arguments.build(ModelArguments), arguments.build(DataArguments)
    complete = _without_evaluations(arguments) if data.eval_split == "none" else arguments
    training = complete.build(CifarTrainingArguments)
    if training.prediction_loss_only or training.batch_eval_metrics:
        raise ValueError("prediction_loss_only and batch_eval_metrics must be false: a run is scored on all logits")
    _check_effects(arguments, training)
    return ResolvedArguments(arguments, model, data, training)


def resolve_elsewhere(arguments: RunArguments) -> ResolvedArguments:
    """
    Return the arguments of a run that another machine trains, without those that only that machine can check: see
    [`OF_THE_MACHINE`]. Raises `ValueError` for arguments that cannot work on any.
    """
    return resolve(arguments.replace(**dict.fromkeys(OF_THE_MACHINE)))


def _check_effects(given: RunArguments, training: CifarTrainingArguments) -> None:
    """Raise `ValueError` for an argument that was given and has no effect."""
    for name in ("do_train", "do_eval", "do_predict"):
        if name in given:
            raise ValueError(f"{name} has no effect: a run trains, evaluates as eval_strategy says, and scores test")
    for name, strategy in EVERY_STEPS.items():
        value = getattr(training, strategy)
        if name in given and value != "steps":
            raise ValueError(f"{name} has no effect with {strategy} {enum_value(value)}: add {strategy} steps")
    hub = [name for name in given if name.startswith("hub_") and name != "hub_token"]
    if hub and not training.push_to_hub:
        raise ValueError(f"{hub[0]} has no effect without push_to_hub")


def _without_evaluations(arguments: RunArguments) -> RunArguments:
    """Return the arguments of a run without evaluations. Raises `ValueError` for those that need them."""
    needs_evaluations = {
        "lr_scheduler_type": schedules.get(arguments.get("lr_scheduler_type", "cosine")).by_evaluations,
        "eval_strategy": arguments.get("eval_strategy", "no") != "no",
        "load_best_model_at_end": arguments.get("load_best_model_at_end", False),
        "early_stopping_patience": "early_stopping_patience" in arguments,
        "save_strategy": arguments.get("save_strategy") == "best",
        "eval_on_start": arguments.get("eval_on_start", False),
    }
    for name, needs in needs_evaluations.items():
        if needs:
            raise ValueError(
                f"{name} {arguments.get(name)} needs evaluations, and eval_split none makes none: leave one out"
            )
    return arguments.replace(eval_strategy="no", load_best_model_at_end=False)


def json_object(name: str, value: Any) -> dict[str, Any]:
    """Return a dict for a dict, None or JSON text. Raises `ValueError` for others, and where a key is given twice."""
    try:
        found = json.loads(value, object_pairs_hook=_unique_keys) if isinstance(value, str) else value or {}
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f'{name} must be a JSON object such as {{"num_cycles": 2}}, got {found}')
    return found


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in found if names.count(name) > 1)} is given twice")
    return found
