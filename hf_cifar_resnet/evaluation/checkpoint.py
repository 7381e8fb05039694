"""A trained model and its image processor, from a folder or the Hub."""

from pathlib import Path

from ..errors import UserError
from ..model import CifarResNetForImageClassification


def checkpoint_folder(name):
    """
    The folder of a checkpoint: itself, or the local copy of a Hub repository.

    Raises:
        UserError: if there is neither.
    """
    folder = Path(name)
    if folder.is_dir() or not _may_be_hub_id(name):
        if not (folder / "config.json").is_file():
            raise UserError(f"{name} holds no checkpoint (no config.json)")
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "README.md"]))
    except Exception as error:  # anything from a name that is no repository id to a broken connection
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"there is no folder {name}, and on the Hub neither: {reason}") from error


def _may_be_hub_id(name):
    return str(name).count("/") == 1 and not str(name).startswith((".", "~", "/"))


def load_checkpoint(name):
    """
    The model, ready to predict, and its image processor.

    Args:
        name (`str`): a folder that training wrote, or a Hub id.

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
