"""`hf-cifar-resnet benchmark`: where the time goes, beside the usual ways to do the same, on this machine."""
