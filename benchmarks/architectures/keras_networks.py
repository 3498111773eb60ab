"""Networks of keras.applications with random weights, and an MLP."""

from __future__ import annotations

from typing import Any


def mlp_bn_after() -> Any:
    """Flatten, BN, Dense 300 elu, BN, Dense 100 elu, BN, Dense 10 softmax on 28×28 pixels."""
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((28, 28)),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dense(300, activation="elu"),
            layers.BatchNormalization(),
            layers.Dense(100, activation="elu"),
            layers.BatchNormalization(),
            layers.Dense(10, activation="softmax"),
        ],
        name="mlp_bn_after",
    )


def _application(name: str, **options: Any) -> Any:
    import keras

    return getattr(keras.applications, name)(weights=None, **options)


def mobilenet() -> Any:
    return _application("MobileNet")


def mobilenet_v2() -> Any:
    return _application("MobileNetV2")


def mobilenet_v3() -> Any:
    return _application("MobileNetV3Small", input_shape=(224, 224, 3))


def resnet50() -> Any:
    return _application("ResNet50")


def resnet50_v2() -> Any:
    return _application("ResNet50V2")


def inception_v3() -> Any:
    return _application("InceptionV3")


def xception() -> Any:
    return _application("Xception")


def densenet121() -> Any:
    return _application("DenseNet121")


def efficientnet_b0() -> Any:
    return _application("EfficientNetB0")


def efficientnet_v2_b0() -> Any:
    return _application("EfficientNetV2B0")


def nasnet_mobile() -> Any:
    return _application("NASNetMobile")


def convnext_tiny() -> Any:
    return _application("ConvNeXtTiny")
