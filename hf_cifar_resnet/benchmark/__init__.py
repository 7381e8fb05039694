"""`hf-cifar-resnet benchmark`: where the time goes on this machine, compared with the usual ways to do the same."""
