"""The commands of `hf-cifar-resnet`, one file each: a parser and a short main."""

from argparse import ArgumentTypeError


def positive(text):
    """Parse an integer of at least 1, as the `type` of an argument."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"must be at least 1, got {number}")
    return number
