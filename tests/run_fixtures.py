"""The contents of the files of a run, for tests that change something in them."""

RECORD = {
    "command": ["train.py", "--config", "quickstart"],
    "dataset": {
        "id": "uoft-cs/cifar100", "name": "cifar100", "config": None, "on_hub": True, "built_in": False,
        "revision": "0123456789abcdef0123456789abcdef01234567", "license": "unknown",
        "citation": "@TECHREPORT{Krizhevsky09learningmultiple, year={2009}}", "image_size": 32, "num_labels": 100,
        "train": 45_000, "validation": 5_000, "test": 10_000,
    },
    "model": {
        "name": "resnet50", "path": "cifar100-resnet50-cosine-seed42",
        "description": "resnet50 with the cifar stem, 23,705,252 parameters", "parameters": 23_705_252, "base": None,
    },
    "precision": "bf16",
    "arguments": {
        "global_batch_size": 256, "load_best_model_at_end": True, "lr_scheduler_type": "cosine", "learning_rate": 1e-3,
        "seed": 42,
    },
    "hardware": "1 x NVIDIA L4",
    "versions": {"torch": "2.15.0", "transformers": "5.23.0", "hf-cifar-resnet": "0.1.0"},
}  # fmt: skip
METRICS = {
    "selected_on": "validation",
    "metric_for_best_model": "top1",
    "best_epoch": 36.0,
    "epochs": 50.0,
    "steps": 8_800,
    "train": {"loss": 1.0, "accuracy": 0.9444},
    "validation": {"loss": 1.0625, "top1": 0.7412, "top5": 0.925},
    "test": {"loss": 1.125, "top1": 0.7345, "top5": 0.9211},
    "most_confused": [{"classes": ["oak_tree", "maple_tree"], "count": 41, "share": 0.205}],
    "timing": {"train_seconds": 4700.4, "images_per_second": 534.6},
}
