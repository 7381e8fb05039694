"""The Trainer for image classification."""

import copy
import json
import math
import time
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path

import torch
from accelerate.utils import broadcast
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput
from transformers.utils import is_in_notebook, logging

from .. import processes, schedules
from ..checkpoints import resume
from ..checkpoints.save import EMA_FILE, TRAINER_STATE, CheckpointCallback
from ..data.dataset import EpochSampler, ImageDataset, collate, normalize
from ..data.mixing import Mixer, label_share
from ..data.steps import Steps
from ..device import LEAST_CHANNELS, keep_freed_memory, memory_format_for, skip_missing_lomo
from ..documents import replacing_files
from ..errors import UserError, explained
from ..evaluation.metrics import Scorer
from ..hub.callback import HubCallback
from ..runs.files import TRAINING_ARGS_JSON, WEIGHTS, step_of
from .attempts import AttemptsCallback
from .callbacks import EpochBoundary, EpochLineCallback, ProcessSeedCallback, QuietProgressCallback
from .ema import EmaCallback
from .optimizers import BATCHNORM_IMAGES, MUON, SCHEDULE_FREE, SCHEDULE_FREE_STATE, Muon
from .train_metrics import TrainMetrics, TrainMetricsCallback
from .workers import worker_context


class CifarTrainer(Trainer):
    """
    transformers' Trainer for [`CifarResNetForImageClassification`] on [`ImageDataset`]s.

    Evaluations are exact for any batch size and number of processes, and without label smoothing. Train accuracy and
    images/s are logged, biases and BatchNorm have no weight decay, and all of
    [`~hf_cifar_resnet.schedules`] are available. Arguments are saved as JSON instead of a pickle.

    With `ema_decay` evaluations and the final model have the averaged weights; `checkpoint-*` has the raw ones, beside
    `ema.safetensors`. A checkpoint is verified before a training resumes from it, which then ends, on a CPU, with the
    same bits as an uninterrupted one.

    Args:
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): adds the superclass accuracy.
        All others as for `Trainer`; [`CifarTrainingArguments`] has the defaults that suit it.
    """

    def __init__(self, model=None, args=None, *, superclass_of=None, data_collator=None, compute_metrics=None,
                 callbacks=None, **kwargs):  # fmt: skip
        if args.push_to_hub and not any(isinstance(callback, HubCallback) for callback in callbacks or ()):
            raise ValueError(
                "push_to_hub needs the run record that train.py writes; from Python, train without it and "
                "then call push_to_hub of the model and of the image processor"
            )
        if model is not None:
            args = args.with_precision_for(model)
        self._given = args
        self.train_metrics, self._ema = TrainMetrics(), None
        self._normalization = None
        self._checkpoints = CheckpointCallback(args.save_total_limit, self._write_progress)
        # Others may read the checkpoint, so it is completed first; the schedule changes before it is reported.
        callbacks = [
            self._checkpoints,
            *schedules.get(args.lr_scheduler_type).make_callbacks(args.lr_scheduler_kwargs),
            *(callbacks or []),
            EpochLineCallback(),
        ]
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        # transformers leaves deleting checkpoints and pushing to our callbacks.
        args = copy.copy(args)
        args.save_total_limit, args.push_to_hub = None, False
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or collate,
            compute_metrics=compute_metrics or Scorer(superclass_of),
            callbacks=callbacks,
            **kwargs,
        )
        self._creates_schedule = self.lr_scheduler is None
        self._given_optimizer = copy.deepcopy(self.optimizer.state_dict()) if self.optimizer else None
        self._mixer = None
        if args.mixup_alpha or args.cutmix_alpha:
            self._mixer = Mixer(
                self.model.config.num_labels, args.mixup_alpha, args.cutmix_alpha, args.mixing_probability,
                args.cutmix_share, args.seed, args.process_index,
            )  # fmt: skip
        if args.sync_batchnorm and args.world_size > 1:
            # Names and tensors stay the same, so that checkpoints load with ordinary BatchNorm.
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self._set_memory_format(self.model)
        # Batches have the same shape, so searching for cuDNN's fastest algorithm pays, unless deterministic.
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
        skip_missing_lomo()
        if args.device.type == "cpu":
            keep_freed_memory()
        # The progress bar stays, and what transformers prints beside it goes.
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(QuietProgressCallback)
        elif is_in_notebook() and not args.disable_tqdm:
            from .notebook import NotebookCallback, NotebookProgressCallback

            self.remove_callback(NotebookProgressCallback)
            self.remove_callback(EpochLineCallback)
            self.add_callback(NotebookCallback)

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        dynamo = self.accelerator.state.dynamo_plugin
        if dynamo.dynamic is None:
            # Otherwise an epoch's smaller last batch causes a slower compilation for batches of any size.
            dynamo.dynamic = False

    # Data and optimizer

    def call_model_init(self, trial=None):
        return self._set_memory_format(super().call_model_init(trial))

    def _set_memory_format(self, model):
        self._memory_format = memory_format_for(model, self.args.device)
        if self.args.torch_compile and self._memory_format != torch.channels_last:
            raise UserError(
                "torch_compile uses channels_last on a CPU, in which PyTorch crashes on this one (AMX) with fewer than "
                f"{LEAST_CHANNELS} channels: leave it out, or choose larger --stage_widths"
            )
        return model.to(memory_format=self._memory_format)

    def get_train_dataloader(self):
        return self._make_train_loader(self._steps().batch_size, self._train_sampler(), self.args.dataloader_drop_last)

    def _steps(self, batch_size: int | None = None) -> Steps:
        if batch_size is None:  # `auto_find_batch_size` may have reduced it
            parts = self.args.gradient_accumulation_steps * self.args.world_size
            batch_size = self.get_total_train_batch_size(self.args) // parts
        return Steps.of(self.args, len(self.train_dataset), batch_size)

    @cached_property  # because its workers may persist
    def _batchnorm_loader(self):
        positions = self._train_sampler().order(0)[:BATCHNORM_IMAGES].tolist()
        return self._make_train_loader(self.args.per_device_train_batch_size, positions)

    def _make_train_loader(self, batch_size, sampler, drop_last=False):
        start_method = self.args.dataloader_multiprocessing_context
        return self._make_loader(
            self.train_dataset,
            batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=worker_context(start_method) if self.args.dataloader_num_workers else start_method,
        )

    def get_eval_dataloader(self, eval_dataset=None):
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self.get_test_dataloader(self.eval_dataset[dataset] if isinstance(dataset, str) else dataset)

    def get_test_dataloader(self, test_dataset):
        # Without workers, which take seconds to start beside a GPU: the images are ready sooner.
        return self._make_loader(test_dataset, self.args.eval_batch_size)

    def _make_loader(self, dataset, batch_size, **options):
        if isinstance(dataset, ImageDataset) and self._normalization in (None, (dataset.mean, dataset.std)):
            self._normalization = dataset.mean, dataset.std
            dataset = dataset.without_normalization()
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

    def _train_sampler(self):
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(len(self.train_dataset), seed)

    def _normalized(self, inputs):
        images = inputs["pixel_values"]
        if images.dtype == torch.uint8:
            images = normalize(images, *self._normalization)
        # The images' memory format decides that of all feature maps.
        return {**inputs, "pixel_values": images.contiguous(memory_format=self._memory_format)}

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        if args.optim == MUON:
            kind, options = Muon.with_arguments(args)
        else:
            kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if "warmup_steps" in options:  # of a schedule-free optimizer; the schedule has the warmup
            options["warmup_steps"] = 0
        return kind, options | {"lr": args.scaled_learning_rate}

    def get_decay_parameter_names(self, model):
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_optimizer(self, *args, **kwargs):
        # Each training, and each attempt of `auto_find_batch_size`, begins with a new optimizer, or the given one as it
        # was, not with the moments and learning rates that the one before has left.
        is_used = self.optimizer is not None and "initial_lr" in self.optimizer.param_groups[0]
        if is_used and self._creates_schedule:
            if self._given_optimizer is None:
                self.optimizer = None
            else:
                self.optimizer.load_state_dict(copy.deepcopy(self._given_optimizer))
        return super().create_optimizer(*args, **kwargs)

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self._creates_schedule:  # anew for each training
            self.lr_scheduler = schedules.create(
                self.args.lr_scheduler_type,
                self.optimizer if optimizer is None else optimizer,
                num_training_steps,
                self.args.warmup_steps,
                self.args.lr_scheduler_kwargs,
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
            every = int(args.eval_steps) if args.eval_steps >= 1 else math.ceil(args.eval_steps * total)
            delay = args.eval_delay
        evaluations = range(every * max(1, math.ceil(delay / every)), total, every)
        return schedules.find_misfit(
            args.lr_scheduler_type, total, args.scaled_learning_rate, args.warmup_steps, args.lr_scheduler_kwargs,
            evaluations if args.eval_strategy != "no" else (), args.early_stopping_patience,
        )  # fmt: skip

    # Training

    def train(self, resume_from_checkpoint=None, **kwargs):
        """
        Train the model. Raises [`UserError`] if the checkpoint is damaged or of another training, or the disk is full.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): a checkpoint, or True for the last complete one. If
                the run had ended there, only its state and its model are loaded.
        """
        args, checkpoint, self.train_metrics = self.args, None, TrainMetrics()
        if args.world_size > 1:
            self._check_nodes()
        with ExitStack() as stack:
            if resume_from_checkpoint:
                given = resume_from_checkpoint, args.output_dir, args.load_best_model_at_end
                checkpoint = processes.decide_on_rank_0(lambda: resume.find_resumable(*given))
                resume.check_fits(checkpoint, self.model, args)
                self.train_metrics = TrainMetrics(**resume.saved_train_metrics(checkpoint, args))
                found = resume.read_progress(checkpoint).batch_size if args.auto_find_batch_size else None
                if resume.has_ended(checkpoint, self._planned_steps(found)):
                    return self._load_ended(checkpoint)
            self._ema = EmaCallback(args.ema_decay, args.saved_weights == "ema", checkpoint) if args.ema_decay else None
            resumed = None if checkpoint is None else resume.ResumedCallback(checkpoint)
            attempts = AttemptsCallback(checkpoint) if args.auto_find_batch_size else None
            # These come after all callbacks that may request logs, evaluations and saves.
            last = EpochBoundary(), TrainMetricsCallback(self.train_metrics, self._train_sampler(), self._steps)
            for callback in filter(None, (ProcessSeedCallback(), attempts, resumed, self._ema, *last)):
                self.add_callback(callback)
                stack.callback(self.remove_callback, callback)
            stack.enter_context(self._checkpoints.reporting_failures())
            return super().train(resume_from_checkpoint=checkpoint and str(checkpoint), **kwargs)

    def _check_nodes(self):
        """Raise [`UserError`] if the nodes have different data, or need an output folder that they do not share."""
        evaluated = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"evaluation": self.eval_dataset}
        datasets = {"training": self.train_dataset, **evaluated}
        digests = {f"{n} images": d.digest() for n, d in datasets.items() if isinstance(d, ImageDataset)}
        processes.check_same({"class names": self.model.config.id2label, **digests}, processes.SAME_DATA)
        if self.args.save_strategy != "no":
            processes.check_shared_folder(self.args.output_dir)

    def _planned_steps(self, batch_size=None):
        if self.args.max_steps > 0:
            return self.args.max_steps
        return math.ceil(self.args.num_train_epochs * self._steps(batch_size).in_epoch)

    def _load_ended(self, checkpoint):
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        resume.ResumedCallback(checkpoint).on_train_begin(self.args, self.state, self.control)
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        name = EMA_FILE if self.args.ema_decay and self.args.saved_weights == "ema" else WEIGHTS
        self.model.load_state_dict(load_file(Path(best or checkpoint, name)))
        self.log({"train_loss": self.train_metrics.mean_loss()})
        return TrainOutput(self.state.global_step, self.train_metrics.mean_loss(), {})

    def get_batch_samples(self, *args):
        before = time.perf_counter()
        samples = super().get_batch_samples(*args)
        self.train_metrics.waited += time.perf_counter() - before
        self._part = 0  # the number of the next batch within this optimizer step
        return samples

    def floating_point_ops(self, inputs):
        # The Trainer's estimate is for language models, and visits all modules at every step.
        return 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        step, part = self.state.global_step, self._part
        self._part += 1
        inputs = self._normalized(inputs)
        if self._mixer is not None and not self._mixing_is_over():
            inputs["pixel_values"], inputs["labels"] = self._mixer(inputs["pixel_values"], inputs["labels"], step, part)
        outputs = model(pixel_values=inputs["pixel_values"])
        steps = self._steps()
        count = steps.count(step, part, self.args.process_index)
        logits, labels = outputs.logits[:count].float(), inputs["labels"][:count]
        # Szegedy et al. 2015 (https://arxiv.org/abs/1512.00567, section 7) for class numbers, and mixed labels alike.
        loss = cross_entropy(logits, labels, reduction="sum", label_smoothing=self.args.label_smoothing_factor)
        correct = label_share(logits.argmax(dim=-1), labels).sum()
        values = torch.stack([loss.detach(), correct])  # copies: compiled models reuse memory
        self.train_metrics.add(values, count, step + 1, self.optimizer.param_groups[0]["lr"])
        loss = loss / steps.share(step)
        return (loss, outputs) if return_outputs else loss

    def _mixing_is_over(self):
        stop = self.args.mixing_stop_epoch
        if stop is not None and stop < 1:
            return self.state.global_step >= stop * self.state.max_steps
        return stop is not None and (self.state.epoch or 0) >= stop

    def log(self, logs, start_time=None):
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

    def evaluation_loop(self, *args, **kwargs):
        with self.train_metrics.paused(), self._ema.in_model() if self._ema else nullcontext():
            self._average_weights()
            # All processes evaluate with the BatchNorm statistics of rank 0, which are saved.
            broadcast(list(self.model.buffers()))
            return super().evaluation_loop(*args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        # No loss is returned, because the metrics have the exact one, not a mean over batches of unequal size.
        inputs = self._normalized(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(pixel_values=inputs["pixel_values"]).logits
        return None, logits.float(), inputs.get("labels")

    def _average_weights(self):
        """
        Put the averages of a schedule-free optimizer into the model, and the BatchNorm statistics that belong to them,
        unless they are there. The next training step takes the averages out again.
        """
        is_averaged = self.args.optim in SCHEDULE_FREE and self.optimizer is not None
        if is_averaged and self.optimizer.param_groups[0]["train_mode"]:
            with self.accelerator.autocast(), torch.random.fork_rng():  # dropout draws from it
                self.optimizer.eval()
                update_bn((self._normalized(batch)["pixel_values"] for batch in self._batchnorm_loader), self.model)

    # Saving

    def save_model(self, output_dir=None, _internal_call=False):
        """Save the model atomically, without pushing it."""
        folder = Path(output_dir or self.args.output_dir)
        if _internal_call and step_of(folder) is not None:
            self._checkpoints.begin(folder)
            self._write_model(folder)
        elif self.args.should_save:
            failed = f"the model cannot be written into {folder}"
            with explained(failed, SafetensorError), replacing_files(folder) as temporary:
                self._write_model(temporary)

    def _write_model(self, folder):
        self._average_weights()
        if self.args.should_save:
            with _no_progress_bars():
                super().save_model(str(folder), _internal_call=True)
            (folder / "training_args.bin").unlink(missing_ok=True)
            (folder / TRAINING_ARGS_JSON).write_text(self._given.to_json_string() + "\n", encoding="utf-8")

    def _write_progress(self, checkpoint):
        content = json.dumps(self.train_metrics.to_dict()) + "\n"
        (checkpoint / resume.train_metrics_file(self.args.process_index)).write_text(content, encoding="utf-8")
        if self._ema and self.args.should_save:
            self._ema.average.save(checkpoint)


@contextmanager
def _no_progress_bars():
    """Without transformers' progress bars, such as that of writing one file, which would disturb the training's."""
    before = logging.set_tqdm_hook(lambda bar, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
