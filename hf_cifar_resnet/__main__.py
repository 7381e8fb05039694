"""`python -m hf_cifar_resnet COMMAND ...` is `hf-cifar-resnet COMMAND ...`."""

from .cli import main

if __name__ == "__main__":
    main()
