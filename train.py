from hf_cifar_resnet.cli import train

if __name__ == "__main__":
    train()
