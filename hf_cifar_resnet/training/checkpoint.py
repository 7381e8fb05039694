"""A trained model and its image processor, from a folder or the Hub."""

from pathlib import Path

from .. import hub
from ..errors import UserError
from ..model import CifarResNetForImageClassification


def checkpoint_folder(name):
    """
    The folder of a checkpoint: itself, or the local copy of `user/repo` or `user/repo@revision` on the Hub.

    Raises:
        UserError: if there is neither.
    """
    folder = Path(name)
    if hub.is_reference(name):
        try:
            folder = hub.download(name)
        except hub.HubError as error:
            raise UserError(f"there is no folder {name}, and from the Hub: {error}") from error
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} holds no checkpoint (no config.json)")
    return folder


def load_checkpoint(name):
    """
    The model, ready to predict, and its image processor.

    Args:
        name (`str`): a folder that training wrote, or `user/repo` on the Hub.

    Raises:
        UserError: if there is none, or weights are missing or of another shape.
    """
    from transformers import AutoImageProcessor, logging

    folder = checkpoint_folder(name)
    # None for reading one small file.
    logging.disable_progress_bar()
    try:
        model, loaded = CifarResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(folder)
    except Exception as error:  # transformers, safetensors and json each raise their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the checkpoint {name} cannot be loaded: {reason}") from error
    if loaded["missing_keys"]:
        # transformers would draw them at random and only warn.
        missing = sorted(loaded["missing_keys"])
        raise UserError(f"the checkpoint {name} lacks {len(missing)} of the model's weights, such as {missing[0]}")
    return model.eval(), processor


def label_names(model):
    """The name of each class number."""
    return [model.config.id2label[number] for number in range(model.config.num_labels)]
