"""The commands of `hf-cifar-resnet`, one file each: a parser and a short main."""
