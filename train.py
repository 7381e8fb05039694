from hf_cifar_resnet.commands.train import main

if __name__ == "__main__":
    main()
