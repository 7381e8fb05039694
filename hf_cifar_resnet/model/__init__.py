"""The model, registered with transformers' Auto classes. This file is not uploaded to the Hub."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .configuration_cifar_resnet import CifarResNetConfig
from .modeling_cifar_resnet import CifarResNetForImageClassification, CifarResNetModel, CifarResNetPreTrainedModel

AutoConfig.register(CifarResNetConfig.model_type, CifarResNetConfig)
AutoModel.register(CifarResNetConfig, CifarResNetModel)
AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification)

# `save_pretrained` copies the code beside the weights, so that the Auto classes load them without this package.
CifarResNetConfig.register_for_auto_class()
CifarResNetModel.register_for_auto_class("AutoModel")
CifarResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["CifarResNetConfig", "CifarResNetForImageClassification", "CifarResNetModel", "CifarResNetPreTrainedModel"]
