from hf_cifar_resnet.training.run import main

if __name__ == "__main__":
    main()
