"""Score the runs of a variant together, as an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..checkpoints.load import check_distinct, check_same_classes, load_with_data
from ..device import device_for
from ..evaluation.scores import Scores
from ..evaluation.scoring import combine, precision_on, score
from ..runs.folder import RunFolder


def score_ensemble(folders: Sequence[Path], use_cpu: bool = False) -> Scores:
    """
    Return the scores of the mean of the probabilities that several runs of a study give on the test split of the data
    of the first, in its precision. Raises `ValueError` if one cannot be loaded, its classes are not those of the
    data, or two are the same model.
    """
    record = RunFolder(folders[0]).read_record()
    data_args = record.build_data_arguments()
    device = device_for(use_cpu)
    precision = precision_on(device, record.precision)
    checkpoints = [load_with_data(folder, data_args, {"test"}, device) for folder in folders]
    check_same_classes(checkpoints)
    if checkpoints[0].data.own_label_names is not None:
        raise ValueError("the dataset has other classes than when the runs were trained")
    check_distinct(checkpoints)
    logits = [score(each.model, each.images("test"), precision=precision, name=each.name)[0] for each in checkpoints]
    labels = checkpoints[0].images("test").labels.numpy()
    return combine(logits, labels, checkpoints[0].data.superclass_of)[1]
