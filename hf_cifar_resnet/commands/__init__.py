"""The commands of `hf-cifar-resnet`, one file each: a parser and a short main."""

from argparse import ArgumentTypeError


def positive(text, limit=None):
    """Parse an integer of at least 1, and at most `limit`, as the `type` of an argument."""
    number = int(text)
    if number < 1 or (limit and number > limit):
        allowed = f"from 1 to {limit}" if limit else "at least 1"
        raise ArgumentTypeError(f"must be {allowed}, got {number}")
    return number
