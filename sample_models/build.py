"""Train the sample models on scikit-learn's digits and write them beside this script.

    python sample_models/build.py                      # all of them, about one minute
    python sample_models/build.py --only digits_mlp    # one, by name with or without its suffix

Needs scikit-learn, onnxruntime, PyTorch for the ONNX models and Keras for the Keras models. Seeds are
fixed; the accuracy printed is that of the written file on the held-out third of the digits.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import keras
    import torch

SEED = 20150211  # the day arXiv 1502.03167, which introduced BatchNormalization, was submitted
FOLDER = Path(__file__).parent
OPSET = 17
DATA = "digits.npz"


class Digits(NamedTuple):
    """8x8 grey images in 0..1 and their classes: for training (2/3) and held out for testing (1/3)."""

    train_images: np.ndarray
    test_images: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray


def load_digits() -> Digits:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)
    return Digits(*train_test_split(images, bunch.target, test_size=1 / 3, random_state=SEED, stratify=bunch.target))


def write_digits(path: Path) -> None:
    """The digits as ``bnfold experiment`` takes them: three quarters to train on, one to test on, in random order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    images, labels = (bunch.images / 16.0).astype(np.float32)[order], bunch.target.astype(np.uint8)[order]
    train = 3 * len(order) // 4
    np.savez_compressed(
        path, x_train=images[:train], y_train=labels[:train], x_test=images[train:], y_test=labels[train:]
    )


# -- ONNX, by PyTorch --------------------------------------------------------------------------------------------


def digits_cnn() -> torch.nn.Module:
    """Conv, BN, ReLU: the usual order, with and without a convolution bias, and one depthwise convolution."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def digits_cnn_post() -> torch.nn.Module:
    """Conv, ReLU, BN with unpadded convolutions, so that every BN can move forward into what follows it."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.BatchNorm2d(32),
        nn.AvgPool2d(2),
        nn.Conv2d(32, 32, 2),
        nn.ReLU(),
        nn.BatchNorm2d(32),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def digits_mlp() -> torch.nn.Module:
    """Linear, BN, ReLU: Gemm nodes in ONNX."""
    from torch import nn

    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def digits_repvgg() -> torch.nn.Module:
    """RepVGG in its training form: 3x3, 1x1 and identity branches, each with a BN, added up before the ReLU."""
    import torch
    from torch import nn

    def convolution(channels_in: int, channels: int, size: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels_in, channels, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(channels)
        )

    class Block(nn.Module):
        def __init__(self, channels_in: int, channels: int, stride: int) -> None:
            super().__init__()
            self.branches = nn.ModuleList(convolution(channels_in, channels, size, stride) for size in (3, 1))
            if channels_in == channels and stride == 1:
                self.branches.append(nn.BatchNorm2d(channels))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(sum(branch(x) for branch in self.branches))

    return nn.Sequential(
        Block(1, 16, 1),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def disturbed(channels: int) -> torch.nn.BatchNorm2d:
    """A BN whose gamma begins at anything from 1/16 to 16: as far apart as large networks end up."""
    import torch
    from torch import nn

    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.exp2(torch.empty(channels).uniform_(-4, 4)))
    return norm


def separable(channels_in: int, channels: int, size: int, stride: int, groups: int) -> list[torch.nn.Module]:
    from torch import nn

    convolution = nn.Conv2d(channels_in, channels, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, disturbed(channels)]


def mobilenet_v1(activation: type[torch.nn.Module]) -> torch.nn.Module:
    """MobileNetV1 in small: a convolution, then pairs of a depthwise and a pointwise one, with BN and activation."""
    from torch import nn

    layers = [*separable(1, 16, 3, 1, 1), activation()]
    for before, behind, stride in ((16, 32, 1), (32, 32, 2), (32, 64, 1)):
        layers += [*separable(before, before, 3, stride, before), activation()]
        layers += [*separable(before, behind, 1, 1, 1), activation()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mobilenet_v2(activation: type[torch.nn.Module]) -> torch.nn.Module:
    """MobileNetV2 in small: inverted residuals with a linear end, which is what the next one adds to."""
    from torch import nn

    class Inverted(nn.Module):
        def __init__(self, channels_in: int, channels: int, stride: int) -> None:
            super().__init__()
            inner = 4 * channels_in
            self.adds = channels_in == channels and stride == 1
            self.body = nn.Sequential(
                *separable(channels_in, inner, 1, 1, 1),
                activation(),
                *separable(inner, inner, 3, stride, inner),
                activation(),
                *separable(inner, channels, 1, 1, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x) if self.adds else self.body(x)

    return nn.Sequential(
        *separable(1, 16, 3, 1, 1),
        activation(),
        Inverted(16, 16, 1),
        Inverted(16, 24, 2),
        Inverted(24, 24, 1),
        *separable(24, 64, 1, 1, 1),
        activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def mobilenet_v1_relu() -> torch.nn.Module:
    from torch import nn

    return mobilenet_v1(nn.ReLU)


def mobilenet_v1_relu6() -> torch.nn.Module:
    from torch import nn

    return mobilenet_v1(nn.ReLU6)


def mobilenet_v2_relu() -> torch.nn.Module:
    from torch import nn

    return mobilenet_v2(nn.ReLU)


def mobilenet_v2_relu6() -> torch.nn.Module:
    from torch import nn

    return mobilenet_v2(nn.ReLU6)


def train_torch(build: Callable[[], torch.nn.Module], digits: Digits, path: Path, epochs: int = 40) -> float:
    """Train, export with the BN still in place, and return the written file's accuracy on the test images."""
    import torch

    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    model = build()
    images = torch.from_numpy(digits.train_images[:, None])
    labels = torch.from_numpy(digits.train_labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    # Unless told to preserve them, the exporter folds a BN into the convolution before it.
    torch.onnx.export(
        model,
        (images[:1],),
        path,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    return onnx_accuracy(path, digits)


def onnx_accuracy(path: Path, digits: Digits) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": digits.test_images[:, None]})
    return float((logits.argmax(axis=1) == digits.test_labels).mean())


# -- Keras -------------------------------------------------------------------------------------------------------


def mlp_bn_before() -> keras.Model:
    """BN between every Dense and its activation, even before the softmax; tells even digits from odd ones."""
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((8, 8)),
            layers.Flatten(name="pixels"),
            layers.Dense(64, name="dense_1"),
            layers.BatchNormalization(name="bn_1"),
            layers.Activation("tanh", name="tanh_1"),
            layers.Dropout(0.5, name="dropout_1"),
            layers.Dense(64, name="dense_2"),
            layers.BatchNormalization(name="bn_2"),
            layers.Activation("tanh", name="tanh_2"),
            layers.Dropout(0.5, name="dropout_2"),
            layers.Dense(2, name="dense_3"),
            layers.BatchNormalization(name="bn_3"),
            layers.Activation("softmax", name="softmax"),
        ],
        name="mlp_bn_before",
    )


def mlp_bn_after() -> keras.Model:
    """BN on the input and after every activation."""
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((8, 8)),
            layers.Flatten(name="pixels"),
            layers.BatchNormalization(name="bn_input"),
            layers.Dense(300, activation="elu", name="dense_1"),
            layers.BatchNormalization(name="bn_1"),
            layers.Dense(100, activation="elu", name="dense_2"),
            layers.BatchNormalization(name="bn_2"),
            layers.Dense(10, activation="softmax", name="classes"),
        ],
        name="mlp_bn_after",
    )


def mlp_mixed() -> keras.Model:
    """BN before the activation in one block and after it in the next, where the bias was dropped all the same."""
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((8, 8)),
            layers.Flatten(name="pixels"),
            layers.BatchNormalization(name="bn_input"),
            layers.Dense(300, use_bias=False, name="dense_1"),
            layers.BatchNormalization(name="bn_1"),
            layers.Activation("elu", name="elu_1"),
            layers.Dense(100, use_bias=False, name="dense_2"),
            layers.Activation("elu", name="elu_2"),
            layers.BatchNormalization(name="bn_2"),
            layers.Dense(10, activation="softmax", name="classes"),
        ],
        name="mlp_mixed",
    )


def inception_post() -> keras.Model:
    """The block of early Inception code, convolution, ReLU, BN, three times: a stem and two parallel branches."""
    from keras import Model, layers

    def convolution(x: Any, filters: int, size: int, padding: str, name: str) -> Any:
        x = layers.Conv2D(filters, size, padding=padding, activation="relu", name=f"conv_{name}")(x)
        return layers.BatchNormalization(name=f"bn_{name}")(x)

    image = layers.Input((8, 8, 1), name="image")
    stem = convolution(image, 16, 3, "valid", "stem")
    branches = [convolution(stem, 16, 1, "same", "branch1x1"), convolution(stem, 24, 3, "same", "branch3x3")]
    x = layers.Concatenate(name="branches")(branches)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(32, 2, activation="relu", name="conv_top")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return Model(image, layers.Dense(10, activation="softmax", name="classes")(x), name="inception_post")


def backbone() -> keras.Model:
    """A small residual network of separable convolutions: what :func:`transfer` carries over."""
    from keras import Model, layers

    image = layers.Input((8, 8, 1), name="image")
    x = layers.Conv2D(24, 3, padding="same", use_bias=False, name="stem_conv")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = stem = layers.ReLU(name="stem_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="block_depthwise")(x)
    x = layers.BatchNormalization(name="block_depthwise_bn")(x)
    x = layers.ReLU(name="block_relu")(x)
    x = layers.Conv2D(24, 1, use_bias=False, name="block_project")(x)
    x = layers.BatchNormalization(name="block_project_bn")(x)
    x = layers.Add(name="block_add")([stem, x])
    x = layers.Conv2D(48, 3, strides=2, use_bias=False, name="top_conv")(x)
    x = layers.BatchNormalization(name="top_bn")(x)
    return Model(image, layers.ReLU(name="top_relu")(x), name="backbone")


def transfer(body: keras.Model) -> keras.Model:
    """A Sequential classifier around ``body``."""
    from keras import Sequential, layers

    head = [
        layers.GlobalAveragePooling2D(name="average"),
        layers.Dense(32, name="head_dense"),
        layers.BatchNormalization(name="head_bn"),
        layers.Activation("relu", name="head_relu"),
        layers.Dropout(0.2, name="head_dropout"),
        layers.Dense(10, activation="softmax", name="classes"),
    ]
    return Sequential([layers.Input((8, 8, 1)), body, *head], name="transfer")


def cnn_legacy() -> keras.Model:
    """Convolution and separable convolution without bias, BN, ReLU: nothing to complain about."""
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(32, 3, use_bias=False, name="conv_1"),
            layers.BatchNormalization(name="bn_1"),
            layers.Activation("relu", name="relu_1"),
            layers.SeparableConv2D(48, 3, padding="same", use_bias=False, name="separable_2"),
            layers.BatchNormalization(name="bn_2"),
            layers.Activation("relu", name="relu_2"),
            layers.GlobalAveragePooling2D(name="average"),
            layers.Dense(10, activation="softmax", name="classes"),
        ],
        name="cnn_legacy",
    )


def fit(model: keras.Model, images: np.ndarray, labels: np.ndarray, epochs: int = 40) -> None:
    import keras

    # Compiled in the model's place, so that the optimizer's state, twice its size, is not saved with it.
    trainer = keras.Model(model.inputs, model.outputs)
    trainer.compile("adam", "sparse_categorical_crossentropy")
    trainer.fit(images.reshape(-1, *model.input_shape[1:]), labels, batch_size=64, epochs=epochs, verbose=0)


def save_keras(model: keras.Model, path: Path, digits: Digits) -> float:
    """Write the model and return the written file's accuracy on the test images."""
    import keras

    model.save(path)
    loaded = keras.models.load_model(path, compile=False)
    scores = loaded.predict(digits.test_images.reshape(-1, *loaded.input_shape[1:]), verbose=0)
    return float((scores.argmax(axis=1) == digits.test_labels % loaded.output_shape[-1]).mean())


def seed_keras() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()


def train_keras(build: Callable[[], keras.Model], digits: Digits, path: Path) -> float:
    seed_keras()
    model = build()
    fit(model, digits.train_images, digits.train_labels % model.output_shape[-1])
    return save_keras(model, path, digits)


def train_transfer(digits: Digits, path: Path) -> float:
    """Train the backbone to tell 0 to 4 apart, freeze it, and train a head for all ten digits on top of it."""
    seed_keras()
    body = backbone()
    low = digits.train_labels < 5
    fit(transfer(body), digits.train_images[low], digits.train_labels[low])
    body.trainable = False
    model = transfer(body)
    fit(model, digits.train_images, digits.train_labels)
    return save_keras(model, path, digits)


def save_digits(digits: Digits, path: Path) -> float:
    """The images held out from training, with their classes: for calibration and for measuring."""
    np.savez_compressed(path, image=digits.test_images[:, None], label=digits.test_labels)
    return 1.0


# -- The command

MOBILE = (mobilenet_v1_relu, mobilenet_v1_relu6, mobilenet_v2_relu, mobilenet_v2_relu6)
TORCH = (digits_cnn, digits_cnn_post, digits_mlp, digits_repvgg, *MOBILE)
KERAS = (mlp_bn_before, mlp_bn_after, mlp_mixed, inception_post)

#: File name → what trains it, writes it to a path and returns the accuracy of what was written.
SAMPLES: dict[str, Callable[[Digits, Path], float]] = {
    **{f"{build.__name__}.onnx": lambda digits, path, build=build: train_torch(build, digits, path) for build in TORCH},
    **{
        f"{build.__name__}.keras": lambda digits, path, build=build: train_keras(build, digits, path) for build in KERAS
    },
    "transfer.keras": train_transfer,
    "cnn_legacy.h5": lambda digits, path: train_keras(cnn_legacy, digits, path),
    "digits_held_out.npz": save_digits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sample models and write them beside this script.")
    parser.add_argument("--only", metavar="NAME", help="one model, with or without its suffix")
    only = parser.parse_args().only
    chosen = [name for name in SAMPLES if only in (None, name, Path(name).stem)]
    if only in (None, DATA, Path(DATA).stem):
        write_digits(FOLDER / DATA)
    elif not chosen:
        parser.error(f"no sample model is called {only!r}; there are {', '.join(SAMPLES)}")
    digits = load_digits()
    for name in chosen:
        path = FOLDER / name
        accuracy = SAMPLES[name](digits, path)
        print(f"{name:22} {path.stat().st_size / 1000:6.1f} kB   test accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
