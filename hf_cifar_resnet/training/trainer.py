"""The Trainer for images: what transformers' own leaves to be done, and nothing else."""

import math
import time
from contextlib import nullcontext

import torch
from transformers import EarlyStoppingCallback

from ..data.dataset import EpochSampler, ImageDataset, collate, normalize
from ..data.mixing import Mixer, weight_of
from ..device import LEAST_CHANNELS, memory_format_for
from ..errors import UserError
from ..evaluation.scoring import Scorer
from ..reporting.repository import TRAINING_ARGS_JSON
from . import schedules
from .callbacks import EpochLineCallback, QuietProgressCallback
from .ema import EmaCallback
from .nonfinite import NonFiniteGuard
from .publish import PublishCallback
from .resumable import ResumableTrainer
from .trackers import prepare_trackers

# How right an answer is, as an integer: MPS has no float64, and float32 counts to 2**24 only. No bit of a share above
# 1/128 is lost, and 2**33 images can be added up.
WHOLE = 2**30


class CifarTrainer(ResumableTrainer):
    """
    transformers' Trainer for [`CifarResNetForImageClassification`] on [`ImageDataset`]s.

    Its evaluations are exact whatever the batch size and the number of processes; label smoothing leaves them alone;
    weight decay leaves biases and BatchNorm alone; train accuracy and images/s are logged; every schedule of
    [`~hf_cifar_resnet.training.schedules`] works. It writes its arguments as JSON, not as a pickle.

    Training batches are mixed where the arguments say so; train accuracy is then the mean of the share that the mixed
    label gives to the predicted class. With `ema_decay` every evaluation, and the model after training, has the
    averaged weights; `checkpoint-*` has the raw ones, to resume from, beside `ema.safetensors`.

    Args:
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): adds the superclass accuracy.
        preemption ([`Preemption`], *optional*): saves and ends the training where it says so.
        All others as for `Trainer`; [`CifarTrainingArguments`] has the defaults that suit it.
    """

    def __init__(self, model=None, args=None, *, superclass_of=None, preemption=None, data_collator=None,
                 compute_metrics=None, callbacks=None, **kwargs):  # fmt: skip
        if args.push_to_hub and not any(isinstance(callback, PublishCallback) for callback in callbacks or ()):
            raise ValueError(
                "push_to_hub needs the record of a run, which train.py has; from Python, train without it and "
                "then call push_to_hub of the model and of the image processor"
            )
        if model is not None:
            args = args.suited_to(model)
        # How right on how many training images; on the device until it is logged, as reading would stall a GPU.
        self._counts = torch.zeros(2, dtype=torch.int64, device=args.device)
        self._start_counting()
        self._scale = None
        decided = schedules.callbacks_for(args.lr_scheduler_type, args.lr_scheduler_kwargs)
        patience = args.early_stopping_patience
        stopping = [] if patience is None else [EarlyStoppingCallback(early_stopping_patience=patience)]
        self._ema = EmaCallback(args.ema_decay, args.saved_weights == "ema") if args.ema_decay else None
        self._preemption = preemption
        first = [callback for callback in (preemption, self._ema) if callback]
        self._guard = NonFiniteGuard(self, skip=args.nonfinite == "skip")
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or collate,
            compute_metrics=compute_metrics or Scorer(superclass_of),
            # The averages are there before anyone asks for them, a step is undone before anyone sees it, and who
            # changes the schedule comes before who reports it.
            callbacks=[*first, self._guard, *decided, *(callbacks or []), EpochLineCallback(), *stopping],
            **kwargs,
        )
        self._mixer = self._make_mixer()
        if args.sync_batchnorm and args.world_size > 1:
            # The same tensors under the same names: what is saved has ordinary BatchNorm.
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self._lay_out(self.model)
        # Shapes do not change, so trying out cuDNN's algorithms pays, unless they have to be the same ones every time.
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
        QuietProgressCallback.replace_in(self)
        prepare_trackers(self.callback_handler.callbacks)

    # Data and optimizer

    def call_model_init(self, trial=None):
        return self._lay_out(super().call_model_init(trial))

    def _lay_out(self, model):
        self._memory_format = memory_format_for(model, self.args.device)
        if self.args.torch_compile and self._memory_format != torch.channels_last:
            raise UserError(
                "torch_compile uses channels_last on a CPU, in which PyTorch crashes on this one (AMX) with fewer than "
                f"{LEAST_CHANNELS} channels: leave it out, or choose larger --stage_widths"
            )
        return model.to(memory_format=self._memory_format)

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(len(dataset), seed)

    def _get_dataloader(self, dataset, *args, is_training=False, **kwargs):
        if isinstance(dataset, ImageDataset) and self._scale in (None, (dataset.mean, dataset.std)):
            self._scale = dataset.mean, dataset.std
            dataset = dataset.as_bytes()
        drop_last = self.args.dataloader_drop_last
        # Transformers would drop the last images of an evaluation too.
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            loader = super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last
        # A loader draws a seed for its workers, as often as depends on them: not from the stream that dropout uses.
        loader.base_dataloader.generator = torch.Generator()
        return loader

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        if inputs["pixel_values"].dtype == torch.uint8:
            inputs["pixel_values"] = normalize(inputs["pixel_values"], *self._scale)
        # One channels_last tensor, images or weights, makes all that follow channels_last.
        inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=self._memory_format)
        return inputs

    def get_decay_parameter_names(self, model):
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None:
            self.lr_scheduler = schedules.create(
                self.args.lr_scheduler_type,
                self.optimizer if optimizer is None else optimizer,
                num_training_steps,
                self.args.warmup_steps,
                self.args.lr_scheduler_kwargs,
                by_events=any(isinstance(c, schedules.ScheduleCallback) for c in self.callback_handler.callbacks),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Training

    def train(self, *args, **kwargs):
        self._start_counting()
        self._part = (-1, 0)
        return super().train(*args, **kwargs)

    def _inner_training_loop(self, *args, **kwargs):
        with self._preemption.saving(self) if self._preemption else nullcontext():
            return super()._inner_training_loop(*args, **kwargs)

    def _finalize_training(self, trial, *args):
        self._catch_up(trial)
        if self._preemption:
            self._preemption.check()
        return super()._finalize_training(trial, *args)

    def _make_mixer(self):
        args = self.args
        if not args.mixup_alpha and not args.cutmix_alpha:
            return None
        return Mixer(
            self.model.config.num_labels, args.mixup_alpha, args.cutmix_alpha, args.mixing_probability,
            args.cutmix_share, args.seed, args.process_index,
        )  # fmt: skip

    def _start_counting(self):
        self._counts.zero_()
        self._seen = 0
        self._logged_at, self._paused, self._waited = time.perf_counter(), 0.0, 0.0

    def get_batch_samples(self, *args):
        started = time.perf_counter()
        batches = super().get_batch_samples(*args)
        self._waited += time.perf_counter() - started
        return batches

    def floating_point_ops(self, inputs):
        # The Trainer's estimate is one for language models, and walks over all modules at every step.
        return 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = self._mixed(inputs)
        outputs = model(**inputs, label_smoothing=self.args.label_smoothing_factor)
        with torch.no_grad():
            correct = weight_of(outputs.logits.argmax(dim=-1), inputs["labels"])
            self._counts[0] += (correct * WHOLE).long().sum()
            self._counts[1] += len(inputs["labels"])
        self._seen += len(inputs["labels"])
        loss = self._guard.vet(outputs.loss)
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        self.grad_norm = super()._get_grad_norm(model, grad_norm)
        return self.grad_norm

    def averages(self):
        """The tensors of the averaged weights; none without `ema_decay` or outside of training."""
        return self._ema.average.average.values() if self._ema else ()

    def running_figures(self):
        """The tensors in which a training's figures add up until they are logged."""
        return self._tr_loss, self._counts

    def _mixed(self, inputs):
        """The batch with images and labels mixed, until `mixing_stop_epoch`."""
        if self._mixer is None or self._mixing_is_over():
            return inputs
        step = self.state.global_step
        # Which of the batches that are accumulated in this step.
        self._part = (step, self._part[1] + 1 if self._part[0] == step else 0)
        pixel_values, labels = self._mixer(inputs["pixel_values"], inputs["labels"], *self._part)
        return {**inputs, "pixel_values": pixel_values, "labels": labels}

    def _mixing_is_over(self):
        stop = self.args.mixing_stop_epoch
        if stop is None:
            return False
        if stop < 1:
            return self.state.global_step >= stop * self.state.max_steps
        return (self.state.epoch or 0) >= stop

    def log(self, logs, start_time=None):
        if "loss" in logs and self._seen:
            logs |= self._training_figures()
            self._guard.correct(logs)
        super().log(logs, start_time)

    def _training_figures(self):
        """
        Train accuracy, images/s and the share of the time spent waiting for data since the last log, training seconds
        in all; collective over all processes.
        """
        seen = self._counts.new_tensor([self._seen])
        counts = self.accelerator.reduce(torch.cat([self._counts, seen]), reduction="sum")
        correct, scored, seen = counts.tolist()
        seconds = time.perf_counter() - self._logged_at - self._paused
        before = next((e["train_seconds"] for e in reversed(self.state.log_history) if "train_seconds" in e), 0.0)
        waited = self._waited
        self._start_counting()
        return {
            "train_accuracy": correct / WHOLE / scored if scored else math.nan,
            "images_per_second": seen / seconds,
            "data_wait": waited / seconds,
            "train_seconds": before + seconds,
        }

    # Evaluation

    def evaluation_loop(self, *args, **kwargs):
        started = time.perf_counter()
        with self._ema.in_model() if self._ema else nullcontext():
            self._share_buffers()
            output = super().evaluation_loop(*args, **kwargs)
        self._paused += time.perf_counter() - started
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        # The Trainer would average losses over batches, whatever their size; the metrics have the exact loss.
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(pixel_values=inputs["pixel_values"]).logits
        return None, logits.float(), inputs.get("labels")

    def _share_buffers(self):
        """Every process evaluates with the BatchNorm statistics of the first, which are the ones that are saved."""
        if self.args.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    # Saving

    def init_hf_repo(self, *args, **kwargs):
        """Nothing: a [`PublishCallback`] pushes, and what it pushes is complete and holds no pickle."""

    _push_from_checkpoint = init_hf_repo

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir, _internal_call=True)

    def write_model(self, folder, state_dict=None):
        super().write_model(folder, state_dict)
        (folder / "training_args.bin").unlink(missing_ok=True)
        (folder / TRAINING_ARGS_JSON).write_text(self.args.to_json_string() + "\n", encoding="utf-8")
        if self._ema:
            self._ema.save(folder)

    def _checkpoint_bytes(self):
        return super()._checkpoint_bytes() + (self._model_bytes() if self._ema else 0)

    def progress(self):
        return super().progress() | {
            "counts": self._counts.tolist(),
            "seen": self._seen,
            "steps": self._guard.steps,
            "skipped": self._guard.skipped,
            "train_seconds": time.perf_counter() - self._logged_at - self._paused,
            "waited": self._waited,
        }

    def restore_progress(self, progress):
        super().restore_progress(progress)
        self._start_counting()
        self._counts.copy_(self._counts.new_tensor(progress["counts"]))
        self._guard.steps, self._guard.skipped = progress["steps"], progress["skipped"]
        self._seen, self._waited = progress["seen"], progress["waited"]
        self._logged_at -= progress["train_seconds"]

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._ema:
            self._ema.resumes_from = resume_from_checkpoint

    def _load_best_model(self):
        super()._load_best_model()
        if self._ema and self._ema.is_model:
            self._ema.average.load(self.state.best_model_checkpoint)
