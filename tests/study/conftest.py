"""Runs that were not trained, with results that a test chooses."""

import csv
import json

DATASET = {
    "id": "uoft-cs/cifar100", "name": "cifar100", "config": None, "on_hub": True, "built_in": False, "image_size": 32,
    "revision": "0123456789abcdef0123456789abcdef01234567", "license": None, "citation": None, "num_labels": 100,
    "train": 45_000, "validation": 5_000, "test": 10_000, "scored_images": "abc",
}  # fmt: skip
MODEL = {
    "name": "resnet20", "path": "run", "description": "resnet20 with the cifar stem, 275,572 parameters",
    "parameters": 275_572, "base": None,
}  # fmt: skip


def write_run(folder, arguments, *, validation=0.5, test=None, last=None, dataset=DATASET, epochs=3):
    """
    Write the files of a finished run with these `RunArguments`. Accuracies are 0 to 1: `validation` is None for a run
    that was not evaluated, `test` is that of validation if it is None, and `last` is that of the last epoch.
    """
    given = {"lr_scheduler_type": "cosine", "optim": "adamw_torch", "learning_rate": 1e-3, "global_batch_size": 128}
    given |= {"warmup_steps": 0.0, "num_train_epochs": epochs, "seed": 42, **arguments.given}
    data = {"dataset_name": dataset["id"], "eval_split": "validation"}
    data |= {"augmentation": arguments.get("augmentation", "crop_flip")}
    record = {
        "command": ["train.py"], "dataset": dataset, "model": MODEL | {"path": folder.name},
        "arguments": given, "model_arguments": {"depth": 20}, "data_arguments": data, "precision": "fp32",
        "hardware": "AMD EPYC, 1 thread", "versions": {"torch": "2.14.1"},
    }  # fmt: skip
    test = (validation or 0.0) if test is None else test
    metrics = {
        "selected_on": "validation", "metric_for_best_model": "top1", "best_epoch": float(epochs),
        "epochs": float(epochs), "steps": 10 * epochs, "train": {"loss": 1.0, "accuracy": 0.9}, "most_confused": [],
        "validation": None if validation is None else {"loss": 1.5, "top1": validation, "top5": 0.9},
        "test": {"loss": 1.6, "top1": test, "top5": 0.8}, "timing": {"train_seconds": 9.5, "images_per_second": 500.0},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    columns = ["step", "epoch", "train_loss", "train_accuracy", "learning_rate", "train_seconds"]
    rows = [[10 * n, n, 2.0, 0.3 * n, given["learning_rate"] / n, 3.0 * n] for n in range(1, epochs + 1)]
    if validation is not None:
        columns += ["eval_loss", "eval_top1"]
        top1 = [validation * n / epochs for n in range(1, epochs)] + [validation if last is None else last]
        rows = [[*row, 1.5, value] for row, value in zip(rows, top1, strict=True)]
    with open(folder / "history.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    (folder / "metrics.json").write_text(json.dumps(metrics))
