"""The commands of `hf-cifar-resnet`, one file each."""
