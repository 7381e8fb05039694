"""The Trainer for image classification."""

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import broadcast, extract_model_from_parallel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import EvalLoopOutput, HPSearchBackend, TrainOutput
from transformers.utils import logging as transformers_logging
from transformers.utils.import_utils import is_in_notebook

from .. import processes, schedules
from ..checkpoints import resume
from ..checkpoints.save import EMA_FILE, TRAINER_STATE, CheckpointCallback
from ..data.dataset import EpochSampler, ImageDataset, collate, find_normalization, map_images, normalize
from ..data.mixing import Mixer, label_share
from ..data.steps import Steps
from ..device import MIN_CHANNELS, memory_format_for
from ..documents import replacing_files
from ..errors import explained
from ..evaluation.metrics import Scorer
from ..evaluation.scores import score_names
from ..runs.files import TRAINING_ARGS_JSON, WEIGHTS, step_of
from .arguments import CifarTrainingArguments, json_object
from .attempts import AttemptsCallback
from .callbacks import (
    EarlyStoppingCallback,
    EpochBoundary,
    EpochLineCallback,
    FrozenModulesCallback,
    ProcessSeedCallback,
    QuietProgressCallback,
    SamplerCallback,
    sort_by_priority,
)
from .ema import EmaCallback
from .optimizers import BATCHNORM_IMAGES, MUON, SCHEDULE_FREE, SCHEDULE_FREE_STATE, Muon
from .train_metrics import TrainMetrics, TrainMetricsCallback
from .workers import worker_context

logger: logging.Logger = logging.getLogger(__name__)
_FIELDS = frozenset(field.name for field in fields(CifarTrainingArguments) if field.init)


@dataclass(frozen=True)
class _TrainingBatch:
    """How the images of a batch count: the first ones, since those that only fill it up are repeated."""

    images: int
    mean_images: float  # that count in each batch of the step
    images_in_step: int  # of all processes
    processes: int


class CifarTrainer(Trainer):
    """
    transformers' Trainer for image classification: any model that takes `pixel_values` and returns `logits`, on any
    dataset that gives `pixel_values` and `labels` (or `label`).

    Evaluations are exact for any batch size and number of processes, and without label smoothing. Train accuracy and
    images/s are logged, biases and BatchNorm have no weight decay, and all of [`~hf_cifar_resnet.schedules`] are
    available. Arguments are saved as JSON instead of a pickle.

    With `ema_decay` evaluations and the final model have the averaged weights; `checkpoint-*` has the raw ones, beside
    `ema.safetensors`. A checkpoint is verified before a training resumes from it, which then ends, on a CPU, with the
    same bits as an uninterrupted one.

    Modules that are in evaluation mode when [`train`] is called, and have no parameters that are trained, stay in it.
    A model that `torch.compile` has returned is trained and saved as the model within it, and compiled by the Trainer.

    Args:
        args (`TrainingArguments`, *optional*): [`CifarTrainingArguments`] have the defaults that suit this Trainer, and
            more arguments; others are converted, and keep their values. They are never changed: `trainer.args` is a
            copy, in which `save_total_limit` and `push_to_hub` are off, since callbacks delete checkpoints and push.
        compute_metrics (*optional*): by default [`Scorer`], whose `eval_loss` is the exact mean cross-entropy; with
            another one it is the mean of what [`compute_loss`] returns.
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): adds the superclass accuracy.
        All others as for `Trainer`. Callbacks are called in the order of their `priority`, a number that is 0 where
            they have none; the highest comes first.
    """

    args: CifarTrainingArguments
    model: PreTrainedModel
    optimizer: torch.optim.Optimizer | None
    train_dataset: Any
    eval_dataset: Any
    compute_metrics: Any
    lr_scheduler: Any
    state: TrainerState

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[Any], dict[str, Any]] | None = None,
        train_dataset: Dataset[Any] | None = None,
        eval_dataset: Dataset[Any] | dict[str, Dataset[Any]] | None = None,
        processing_class: Any = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable[..., torch.Tensor] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        *,
        superclass_of: np.ndarray | None = None,
        **kwargs: Any,
    ):
        if args is None:
            args = _default_arguments(evaluates=eval_dataset is not None, has_metrics=compute_metrics is not None)
        elif not isinstance(args, CifarTrainingArguments):
            args = _converted_arguments(args)
        if args.push_to_hub and not any(getattr(callback, "pushes_to_hub", False) for callback in callbacks or ()):
            raise ValueError(
                "push_to_hub needs the run record that train.py writes; from Python, train without it and "
                "then call push_to_hub of the model and of the image processor"
            )
        if train_dataset is not None and not hasattr(train_dataset, "__len__"):
            raise ValueError("train_dataset must have a length, since an epoch has each of its images once")
        plain_model = None if model is None else _uncompiled(model)
        if plain_model is not None:
            args = args.with_precision_for(plain_model)
        self._is_compiled = plain_model is not model
        if self._is_compiled:
            logger.info("the Trainer compiles the model itself, as torch_compile_backend and torch_compile_mode say")
        self._recorded_args = args
        self.train_metrics: TrainMetrics = TrainMetrics()
        self._ema: EmaCallback | None = None
        self._normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        self._checkpoints = CheckpointCallback(_checkpoint_limit(args), self._write_progress)
        self._callbacks_of_args = _callbacks_of(args)
        callbacks = [self._checkpoints, *(callbacks or []), EpochLineCallback(), *self._callbacks_of_args]
        args = self._args_of_transformers(args)
        super().__init__(
            plain_model,
            args,
            data_collator or collate,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,
            compute_loss_func,
            compute_metrics or Scorer(superclass_of),
            callbacks,
            **kwargs,
        )
        # Our loss is divided by the number of images in a step, whatever a model's own would do with it.
        self.model_accepts_loss_kwargs = False
        # A trial of `hyperparameter_search` releases the model, and the next needs its labels before it has another.
        self._config: Any = getattr(self.model, "config", None)
        problem = getattr(self._config, "problem_type", None)
        self._has_classes = problem in (None, "single_label_classification")
        self._has_exact_loss = compute_metrics is None and self._has_classes
        if compute_metrics is None and not self._has_classes:
            self.compute_metrics = None
        self._creates_schedule = self.lr_scheduler is None
        self._given_optimizer = copy.deepcopy(self.optimizer.state_dict()) if self.optimizer else None
        self._mixer = self._make_mixer()
        self._args_in_use = copy.copy(args)
        self._batch_number = 0  # of the next batch within an optimizer step
        self._training_batch: _TrainingBatch | None = None  # while one is trained
        self._frozen = FrozenModulesCallback()
        self._prepare_model(self.model)
        # The progress bar stays, and what transformers prints beside it goes.
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(QuietProgressCallback)
        elif is_in_notebook() and not args.disable_tqdm:
            from .notebook import NotebookCallback, NotebookProgressCallback

            self.remove_callback(NotebookProgressCallback)
            self.remove_callback(EpochLineCallback)
            self.add_callback(NotebookCallback)
        sort_by_priority(self.callback_handler.callbacks)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        dynamo = self.accelerator.state.dynamo_plugin
        if dynamo is not None and dynamo.dynamic is None:
            # Otherwise an epoch's smaller last batch causes a slower compilation for batches of any size.
            dynamo.dynamic = False

    def add_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        super().add_callback(callback)
        sort_by_priority(self.callback_handler.callbacks)

    # Arguments

    def _args_of_transformers(self, args: CifarTrainingArguments) -> CifarTrainingArguments:
        """Return the arguments that transformers gets, without what callbacks do in its place."""
        changes: dict[str, Any] = {"save_total_limit": None, "push_to_hub": False}
        changes["accelerator_config"] = copy.deepcopy(args.accelerator_config)  # in which transformers sets num_steps
        if self._is_compiled:
            changes |= {"torch_compile": True, "torch_compile_backend": args.torch_compile_backend or "inductor"}
        return args.copy_with(**changes)

    def _make_mixer(self) -> Mixer | None:
        args = self.args
        if not (args.mixup_alpha or args.cutmix_alpha):
            return None
        return Mixer(
            cast(int, self._config.num_labels), args.mixup_alpha, args.cutmix_alpha, args.mixing_probability,
            args.cutmix_share, args.seed, args.process_index,
        )  # fmt: skip

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        self._use_args(self._recorded_args, self._find_set_args())
        self._args_of_search = self._recorded_args  # to which every trial returns
        return super().hyperparameter_search(*args, **kwargs)

    def _find_set_args(self) -> dict[str, Any]:
        """Return the arguments that were set in `args` since the Trainer was made, or since its last training began."""
        return {
            name: vars(self.args)[name] for name in _FIELDS if vars(self.args)[name] != vars(self._args_in_use)[name]
        }

    def _use_args(self, args: CifarTrainingArguments, values: Mapping[str, Any]) -> None:
        """Use arguments with other values, and make anew what was made from those before."""
        if not values and args is self._recorded_args:
            return
        self._recorded_args = args.rebuild_with(values)
        self.args = self._args_of_transformers(self._recorded_args)
        self._args_in_use = copy.copy(self.args)
        self._train_batch_size = self.args.train_batch_size
        self.create_accelerator_and_postprocess()
        self._checkpoints.limit = _checkpoint_limit(self._recorded_args)
        self._mixer = self._make_mixer()
        vars(self).pop("_batchnorm_loader", None)
        for callback in self._callbacks_of_args:
            self.remove_callback(callback)
        self._callbacks_of_args = _callbacks_of(self.args)
        for callback in self._callbacks_of_args:
            self.add_callback(callback)

    def _use_args_of(self, trial: Any) -> None:
        """Use the arguments that were set in `args`, or those of a trial of [`hyperparameter_search`]."""
        if trial is None or self.hp_search_backend is None:
            self._use_args(self._recorded_args, self._find_set_args())
            return
        values = self.hp_space(trial) if self.hp_search_backend == HPSearchBackend.OPTUNA else trial
        # Of others, transformers logs a warning.
        self._use_args(self._args_of_search, {name: value for name, value in values.items() if name in _FIELDS})

    # Data and optimizer

    def call_model_init(self, trial: Any = None) -> nn.Module:
        return self._prepare_model(_uncompiled(super().call_model_init(trial)))

    def _prepare_model(self, model: nn.Module) -> nn.Module:
        if self.args.sync_batchnorm and self.args.world_size > 1:
            # Names and tensors stay the same, so that checkpoints load with ordinary BatchNorm.
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self._memory_format = memory_format_for(model, self.args.device)
        if self.args.torch_compile and self._memory_format != torch.channels_last:
            raise ValueError(
                "torch_compile uses channels_last on a CPU, in which PyTorch crashes on this one (AMX) with fewer than "
                f"{MIN_CHANNELS} channels: leave it out, or choose larger stage_widths"
            )
        return model.to(memory_format=self._memory_format)  # pyright: ignore[reportCallIssue]

    def get_train_dataloader(self) -> DataLoader[Any]:
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        self._sampler = self._make_sampler()
        batch_size, workers = self._steps().batch_size, self.args.dataloader_num_workers
        epoch = self._sampler.epoch.share_memory_() if workers else self._sampler.epoch
        return self._make_train_loader(batch_size, self._sampler, epoch, self.args.dataloader_drop_last)

    def _steps(self, batch_size: int | None = None) -> Steps:
        if batch_size is None:  # `auto_find_batch_size` may have reduced it
            parts = self.args.gradient_accumulation_steps * self.args.world_size
            batch_size = self.get_total_train_batch_size(self.args) // parts
        return Steps.of(self.args, len(self.train_dataset), batch_size)

    @cached_property  # because its workers may persist
    def _batchnorm_loader(self) -> DataLoader[Any]:
        indices = self._make_sampler().order(0)[:BATCHNORM_IMAGES].tolist()
        return self._make_train_loader(self.args.train_batch_size, indices, epoch=0)

    def _make_train_loader(
        self, batch_size: int, sampler: Iterable[int], epoch: int | torch.Tensor, drop_last: bool = False
    ) -> DataLoader[Any]:
        start_method, workers = self.args.dataloader_multiprocessing_context, self.args.dataloader_num_workers
        return self._make_loader(
            map_images(self.train_dataset, lambda images: images.at_epoch(epoch)),
            batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=worker_context(start_method) if workers else start_method,
        )

    def get_eval_dataloader(self, eval_dataset: str | Dataset[Any] | None = None) -> DataLoader[Any]:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("an evaluation needs an eval_dataset")
        return self.get_test_dataloader(self.eval_dataset[dataset] if isinstance(dataset, str) else dataset)

    def get_test_dataloader(self, test_dataset: Dataset[Any]) -> DataLoader[Any]:
        # Without workers, which take seconds to start beside a GPU: the images are ready sooner.
        return self._make_loader(test_dataset, self.args.eval_batch_size)

    def _make_loader(self, dataset: Dataset[Any], batch_size: int, **options: Any) -> DataLoader[Any]:
        normalization = find_normalization(dataset)
        if normalization is not None and self._normalization in (None, normalization):
            self._normalization = normalization
            dataset = map_images(dataset, ImageDataset.without_normalization)
        loader = DataLoader(
            dataset,
            batch_size,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
            in_order=self.args.dataloader_in_order,
            # The seeds of workers are not drawn from the generator of dropout, which has to be reproducible.
            generator=torch.Generator(),
            **options,
        )
        return self.accelerator.prepare(loader)

    def _make_sampler(self) -> EpochSampler:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(len(self.train_dataset), seed)

    def _normalized(self, inputs: dict[str, Any]) -> dict[str, Any]:
        images = inputs["pixel_values"]
        if images.dtype == torch.uint8 and self._normalization is not None:
            images = normalize(images, *self._normalization)
        # The images' memory format decides that of all feature maps.
        return {**inputs, "pixel_values": images.contiguous(memory_format=self._memory_format)}

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: PreTrainedModel | None = None) -> tuple[Any, Any]:
        if args.optim == MUON:
            kind, options = Muon.with_arguments(args)
        else:
            kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if "warmup_steps" in options:  # of a schedule-free optimizer; the schedule has the warmup
            options["warmup_steps"] = 0
        return kind, options | {"lr": getattr(args, "scaled_learning_rate", args.learning_rate)}

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        # Each training, and each attempt of `auto_find_batch_size`, begins with a new optimizer, or the given one as it
        # was, not with the moments and learning rates that the one before has left.
        optimizer = self.optimizer
        if optimizer is not None and "initial_lr" in optimizer.param_groups[0] and self._creates_schedule:
            if self._given_optimizer is None:
                self.optimizer = None
            else:
                optimizer.load_state_dict(copy.deepcopy(self._given_optimizer))
        return super().create_optimizer(*args, **kwargs)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        optimizer = self.optimizer if optimizer is None else optimizer
        if self._creates_schedule and optimizer is not None:  # anew for each training
            self.lr_scheduler = schedules.create(
                self.args.lr_scheduler_type,
                optimizer,
                num_training_steps,
                self.args.warmup_steps,
                _schedule_arguments(self.args),
                scaled_by_callback=any(
                    isinstance(callback, schedules.ScheduleCallback) for callback in self.callback_handler.callbacks
                ),
                optimizer_state=SCHEDULE_FREE_STATE,
            )
        return self.lr_scheduler

    def find_schedule_misfit(self) -> str | None:
        """Say where the schedule does not fit the length of the training, as [`schedules.find_misfit`] does."""
        args, total, every = self.args, self._planned_steps(), self._steps().in_epoch
        if not self._creates_schedule or total < 1:
            return None
        delay = args.eval_delay * every
        if args.eval_strategy == "steps":
            steps = args.eval_steps or 1
            every = int(steps) if steps >= 1 else math.ceil(steps * total)
            delay = args.eval_delay
        evaluations = range(every * max(1, math.ceil(delay / every)), total, every)
        return schedules.find_misfit(
            args.lr_scheduler_type, total, args.scaled_learning_rate, args.warmup_steps, _schedule_arguments(args),
            evaluations if args.eval_strategy != "no" else (), args.early_stopping_patience,
        )  # fmt: skip

    # Training

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """
        Train the model.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): a checkpoint, or True for the last complete one. If
                the run had ended there, only its state and its model are loaded.

        Raises:
            ValueError: if the checkpoint is damaged or of another training.
            OSError: if the disk is full.
            FloatingPointError: if a loss or a weight is not finite.
        """
        self._use_args_of(trial)
        args, checkpoint, self.train_metrics = self.args, None, TrainMetrics()
        if args.world_size > 1:
            self._check_nodes()
        self._check_metric_name()
        with ExitStack() as stack:
            if resume_from_checkpoint:
                given = resume_from_checkpoint, str(args.output_dir), args.load_best_model_at_end
                checkpoint = processes.decide_on_rank_0(lambda: resume.find_resumable(*given))
                resume.check_fits(checkpoint, self.model, args)
                self.train_metrics = TrainMetrics(**resume.saved_train_metrics(checkpoint, args))
                found = resume.read_progress(checkpoint).batch_size if args.auto_find_batch_size else None
                if resume.has_ended(checkpoint, self._planned_steps(found)):
                    return self._load_ended(checkpoint)
            self._ema = EmaCallback(args.ema_decay, args.saved_weights == "ema", checkpoint) if args.ema_decay else None
            during_training = [
                ProcessSeedCallback(),
                AttemptsCallback(checkpoint) if args.auto_find_batch_size else None,
                resume.ResumedCallback(checkpoint) if checkpoint is not None else None,
                self._ema,
                self._frozen,
                SamplerCallback(lambda: self._sampler),
                EpochBoundary(),
                TrainMetricsCallback(self.train_metrics, self._make_sampler(), self._steps),
            ]
            for callback in filter(None, during_training):
                self.add_callback(callback)
                stack.callback(self.remove_callback, callback)
            stack.enter_context(self._checkpoints.reporting_failures())
            return super().train(checkpoint and str(checkpoint), trial, ignore_keys_for_eval)

    def _check_nodes(self) -> None:
        """Raise `ValueError` if the nodes have different data, or need an output folder that they do not share."""
        evaluated = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"evaluation": self.eval_dataset}
        datasets = {"training": self.train_dataset, **evaluated}
        digests = {f"{n} images": d.digest() for n, d in datasets.items() if isinstance(d, ImageDataset)}
        processes.check_same({"class names": self._config.id2label, **digests}, processes.SAME_DATA)
        if self.args.save_strategy != "no":
            processes.check_shared_folder(str(self.args.output_dir))

    def _check_metric_name(self) -> None:
        """Raise `ValueError` if the evaluations of the training will not have `metric_for_best_model`."""
        metric = self.args.metric_for_best_model
        if metric is None or self.args.eval_strategy == "no" or not isinstance(self.compute_metrics, Scorer):
            return
        num_labels = getattr(self._config, "num_labels", None)
        if num_labels is None:
            return
        known = score_names(num_labels, self.compute_metrics.superclass_of is not None)
        if isinstance(self.eval_dataset, dict):
            known = [f"{dataset}_{name}" for dataset in self.eval_dataset for name in known]
        if metric.removeprefix("eval_") not in known:
            raise ValueError(f"metric_for_best_model must be one of {', '.join(known)}, got {metric}")

    def _planned_steps(self, batch_size: int | None = None) -> int:
        if self.args.max_steps > 0:
            return self.args.max_steps
        return math.ceil(self.args.num_train_epochs * self._steps(batch_size).in_epoch)

    def _load_ended(self, checkpoint: Path) -> TrainOutput:
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        resume.ResumedCallback(checkpoint).on_train_begin(self.args, self.state, self.control)
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        name = EMA_FILE if self.args.ema_decay and self.args.saved_weights == "ema" else WEIGHTS
        self.model.load_state_dict(load_file(Path(best or checkpoint, name)))
        self.train_metrics.record_epoch(self.state)
        self.log({"train_loss": self.train_metrics.mean_loss()})
        return TrainOutput(self.state.global_step, self.train_metrics.mean_loss(), {})

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        before = time.perf_counter()
        samples = super().get_batch_samples(*args, **kwargs)
        self.train_metrics.waited += time.perf_counter() - before
        self._batch_number = 0
        return samples

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        # The Trainer's estimate is for language models, and visits all modules at every step.
        return 0

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """
        Train on a batch, which is normalised and mixed before [`compute_loss`] gets it, and add its loss and correct
        images to the training metrics.
        """
        step, number, steps = self.state.global_step, self._batch_number, self._steps()
        self._batch_number += 1
        inputs = self._normalized(inputs)
        if self._mixer is not None and not self._mixing_is_over():
            inputs["pixel_values"], inputs["labels"] = self._mixer(
                inputs["pixel_values"], inputs["labels"], step, number
            )
        batch = _TrainingBatch(
            images=steps.count(step, number, self.args.process_index),
            mean_images=steps.share(step),
            images_in_step=len(steps.locate(step)[1]),
            processes=steps.processes,
        )
        labels, correct = inputs.get("labels"), []

        def count_correct(module: nn.Module, given: Any, outputs: Any) -> None:
            if labels is not None and not correct:
                classes = _logits_of(outputs).detach()[: batch.images].argmax(dim=-1)
                correct.append(label_share(classes, labels[: batch.images]).sum())

        hooks = [model.register_forward_hook(count_correct)]
        if self._frozen.modules:  # after `model.train()`, which transformers calls at every step
            hooks.append(model.register_forward_pre_hook(self._frozen.set_to_evaluation))
        self._training_batch = batch
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._training_batch = None
            for hook in hooks:
                hook.remove()
        # The losses of a step's batches add up, and average over the processes, to that of the step.
        total = loss * (batch.images_in_step / batch.processes)
        values = torch.stack([total, correct[0] if correct else torch.full_like(total, math.nan)])
        optimizer = cast(torch.optim.Optimizer, self.optimizer)
        self.train_metrics.add(values, batch.images, step + 1, optimizer.param_groups[0]["lr"])
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """
        Return the loss of a batch and, with `return_outputs`, the model's outputs.

        It is the mean cross-entropy, with label smoothing in training, or what `compute_loss_func` returns. A training
        step is the mean over its images, however they are divided into batches of processes and accumulated ones.

        Args:
            inputs: `pixel_values` float32 `(batch, 3, height, width)`, and `labels` int64 `(batch,)` or, when mixed,
                float32 `(batch, num_labels)`.
        """
        batch, labels = self._training_batch, inputs["labels"]
        if not self._has_classes:
            given = {"pixel_values": inputs["pixel_values"], "labels": labels}
            loss, outputs = super().compute_loss(model, given, return_outputs=True)
            if batch is not None:
                loss = loss * batch.images / batch.mean_images
            return (loss, outputs) if return_outputs else loss
        outputs = model(pixel_values=inputs["pixel_values"])
        counted = outputs
        if batch is not None and batch.images < len(labels):  # the rest are repeated
            counted, labels = _first_of(outputs, batch.images), labels[: batch.images]
        if self.compute_loss_func is not None:
            images = len(labels) if batch is None else batch.images_in_step
            loss = self.compute_loss_func(counted, labels, num_items_in_batch=images)
            if batch is not None:
                loss = loss * batch.processes  # over which the gradients are averaged
        elif batch is None:
            loss = cross_entropy(_logits_of(outputs).float(), labels)
        else:
            # Szegedy et al. 2015 (https://arxiv.org/abs/1512.00567, section 7) for class numbers and mixed labels.
            smoothing = self.args.label_smoothing_factor
            loss = cross_entropy(_logits_of(counted).float(), labels, reduction="sum", label_smoothing=smoothing)
            loss = loss / batch.mean_images
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | float | None = None) -> Any:
        # Where nothing is clipped, transformers computes the norm all the same, at every step.
        return None if grad_norm is None else super()._get_grad_norm(model, grad_norm=grad_norm)

    def _mixing_is_over(self) -> bool:
        stop = self.args.mixing_stop_epoch
        if stop is not None and stop < 1:
            return self.state.global_step >= stop * self.state.max_steps
        return stop is not None and (self.state.epoch or 0) >= stop

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.train_metrics.summary()
        elif "train_runtime" in logs:
            self._average_weights()  # before the Trainer loads the best model, whose weights are averages already
            if self.train_metrics.images_in_all:
                # transformers' own loss is that of the steps since the run was resumed.
                logs["train_loss"] = self.train_metrics.mean_loss()
        logs.pop("total_flos", None)
        super().log(logs, start_time)

    # Evaluation

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        with self.train_metrics.paused(), self._ema.in_model() if self._ema else nullcontext():
            self._average_weights()
            # All processes evaluate with the BatchNorm statistics of rank 0, which are saved.
            broadcast(list(self.model.buffers()))
            return super().evaluation_loop(*args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        inputs = self._normalized(inputs)
        labels, loss = inputs.get("labels"), None
        with torch.no_grad(), self.compute_loss_context_manager():
            if labels is None or (self._has_exact_loss and not prediction_loss_only):
                outputs = model(pixel_values=inputs["pixel_values"])
            else:
                loss, outputs = self.compute_loss(model, dict(inputs), return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        return loss, _logits_of(outputs).float(), labels

    def _average_weights(self) -> None:
        """
        Put the averages of a schedule-free optimizer into the model, and the BatchNorm statistics that belong to them,
        unless they are there. The next training step takes the averages out again.
        """
        if self.args.optim not in SCHEDULE_FREE or self.optimizer is None:
            return
        optimizer = cast(Any, self.optimizer)
        if optimizer.param_groups[0]["train_mode"]:
            with self.accelerator.autocast(), torch.random.fork_rng():  # dropout draws from it
                optimizer.eval()
                update_bn((self._normalized(batch)["pixel_values"] for batch in self._batchnorm_loader), self.model)

    # Saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model atomically, without pushing it."""
        folder = Path(output_dir or str(self.args.output_dir))
        if _internal_call and step_of(folder) is not None:
            folder.parent.mkdir(parents=True, exist_ok=True)  # of a trial of `hyperparameter_search`
            self._checkpoints.begin(folder)
            self._write_model(folder)
        elif self.args.should_save:
            failed = f"the model cannot be written into {folder}"
            with explained(failed, SafetensorError), replacing_files(folder) as temporary:
                self._write_model(temporary)

    def _write_model(self, folder: Path) -> None:
        self._average_weights()
        if self.args.should_save:
            with _no_progress_bars():
                super().save_model(str(folder), _internal_call=True)
            (folder / "training_args.bin").unlink(missing_ok=True)
            (folder / TRAINING_ARGS_JSON).write_text(self._recorded_args.to_json_string() + "\n", encoding="utf-8")

    def _write_progress(self, checkpoint: Path) -> None:
        content = json.dumps(self.train_metrics.to_dict()) + "\n"
        (checkpoint / resume.train_metrics_file(self.args.process_index)).write_text(content, encoding="utf-8")
        if self._ema and self._ema.average and self.args.should_save:
            self._ema.average.save(checkpoint)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Without transformers' progress bars, such as that of writing one file, which would disturb the training's."""
    before = transformers_logging.set_tqdm_hook(
        lambda bar, args, kwargs: transformers_logging.EmptyTqdm(*args, **kwargs)
    )
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)


def _checkpoint_limit(args: CifarTrainingArguments) -> int | None:
    """Return how many checkpoints are kept, None for all: as in transformers, also if the limit is not above 0."""
    return args.save_total_limit if args.save_total_limit and args.save_total_limit > 0 else None


def _callbacks_of(args: CifarTrainingArguments) -> list[TrainerCallback]:
    """Return the callbacks that the arguments ask for."""
    callbacks: list[TrainerCallback] = []
    callbacks += schedules.get(args.lr_scheduler_type).make_callbacks(_schedule_arguments(args))
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    return callbacks


def _schedule_arguments(args: CifarTrainingArguments) -> dict[str, Any]:
    return json_object("lr_scheduler_kwargs", args.lr_scheduler_kwargs)


def _logits_of(outputs: Any) -> torch.Tensor:
    """Return the logits `(batch, num_labels)` among the outputs of a model."""
    if isinstance(outputs, torch.Tensor):
        return outputs
    if isinstance(outputs, dict):
        return outputs["logits"]
    return next(output for output in outputs if output.ndim == 2)  # after the loss


def _first_of(outputs: Any, count: int) -> Any:
    """Return a model's outputs for the first images of a batch."""
    if isinstance(outputs, torch.Tensor):
        return outputs[:count] if outputs.ndim else outputs
    if isinstance(outputs, dict):
        return type(outputs)(**{name: _first_of(output, count) for name, output in outputs.items()})
    return tuple(_first_of(output, count) for output in outputs)


def _default_arguments(evaluates: bool, has_metrics: bool) -> CifarTrainingArguments:
    """Return the arguments of a Trainer that was given none, in transformers' folder for that case."""
    if not evaluates:
        return CifarTrainingArguments(output_dir="tmp_trainer", eval_strategy="no", load_best_model_at_end=False)
    return CifarTrainingArguments(output_dir="tmp_trainer", metric_for_best_model="loss" if has_metrics else "top1")


def _converted_arguments(args: TrainingArguments) -> CifarTrainingArguments:
    """
    Return the same arguments, with transformers' defaults, and ours where only ours have an argument. Those that a
    subclass adds are kept beside them, for the callbacks that it was written for.
    """
    values: dict[str, Any] = args.to_dict() | {"hub_token": args.hub_token}  # of which `to_dict` shows the name alone
    converted = CifarTrainingArguments(**{name: value for name, value in values.items() if name in _FIELDS})
    vars(converted).update({name: vars(args)[name] for name in values if name not in _FIELDS and name in vars(args)})
    return converted


def _uncompiled(model: nn.Module) -> nn.Module:
    """Return the model within one that `torch.compile` has returned, whose weights have their own names."""
    return extract_model_from_parallel(model, keep_torch_compile=False)
