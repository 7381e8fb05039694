import csv

import numpy as np

from hf_cifar_resnet.data.dataset import ImageDataset
from hf_cifar_resnet.data.splits import ImageSplits
from hf_cifar_resnet.reporting.error_report import write_analysis


def test_superclass_without_classes(tmp_path):
    """Datasets may name superclasses that none of their classes has."""
    scale = [0.5] * 3, [0.25] * 3
    split = ImageDataset(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 2, 2], *scale)
    names, superclasses = ["oak", "pine", "cat"], ["tree", "pet", "rock"]
    data = ImageSplits(None, None, split, names, np.array([0, 0, 1]), *scale, superclass_names=superclasses)
    write_analysis(tmp_path, np.eye(3)[[1, 1, 0, 2]], split, data)
    with open(tmp_path / "superclass_confusion.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[1:] for row in rows[1:]] == [["2", "0", "0"], ["1", "1", "0"], ["0", "0", "0"]]
