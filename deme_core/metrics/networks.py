"""Small networks whose features judge small images: each maps [n, C, H, W] in [-1, 1] to `features` [n, width].

`forward` is what each is trained for: logits of the classes, or, without labels, the images again. They differ in kind
so that no model can please all of them by what one of them looks at.
"""

from itertools import pairwise

import torch
from torch import nn


class _Classifier(nn.Module):
    """Logits [n, classes] of the features of a trunk."""

    def __init__(self, trunk: nn.Sequential, width: int, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(width, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the trunk says of the images."""
        return self.trunk(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes]."""
        return self.head(self.features(x))


class SmallClassifier(_Classifier):
    """A convolutional classifier; its pooled last layer gives the features.

    Each of the `blocks` halves the resolution: one for 8×8, two for 16×16.
    """

    def __init__(self, channels: int, width: int, classes: int, blocks: int = 1) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, width // 2, 3, padding=1), nn.GELU()]
        for inputs in [width // 2, *[width] * (blocks - 1)]:
            layers += [nn.Conv2d(inputs, width, 3, padding=1, stride=2), nn.GELU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GELU()]
        super().__init__(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width, classes)


class PlaceClassifier(_Classifier):
    """A convolutional classifier with 5×5 kernels and maxima, whose features know where in the image things are."""

    def __init__(self, channels: int, size: int, width: int, classes: int, blocks: int = 1) -> None:
        layers: list[nn.Module] = []
        for inputs in [channels, *[width // 2] * (blocks - 1)]:
            layers += [nn.Conv2d(inputs, width // 2, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        side = size // 2**blocks
        last = [nn.Flatten(), nn.Linear(width // 2 * side * side, width), nn.ReLU()]
        super().__init__(nn.Sequential(*layers, *last), width, classes)


class DenseClassifier(_Classifier):
    """A classifier of the pixels without any convolution: `depth` hidden layers, the last of which is the features."""

    def __init__(self, channels: int, size: int, width: int, classes: int, depth: int = 1, hidden: int = 256) -> None:
        sizes = [channels * size * size, *[hidden] * (depth - 1), width]
        layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.GELU())]
        super().__init__(nn.Sequential(nn.Flatten(), *layers), width, classes)


class DenseAutoencoder(nn.Module):
    """Pixels through a layer of `width` numbers and back, without labels; that layer is the features."""

    def __init__(self, channels: int, size: int, width: int, hidden: int = 256) -> None:
        super().__init__()
        pixels = channels * size * size
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.decoder = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, pixels))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The code."""
        return self.encoder(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The image again, [n, C, H, W]."""
        return self.decoder(self.features(x)).view_as(x)


class ConvolutionalAutoencoder(nn.Module):
    """The same by strided convolutions, `blocks` of them each way."""

    def __init__(self, channels: int, size: int, width: int, blocks: int = 1, hidden: int = 32) -> None:
        super().__init__()
        side, down, up = size // 2**blocks, [], []
        for inputs in [channels, *[hidden] * (blocks - 1)]:
            down += [nn.Conv2d(inputs, hidden, 4, stride=2, padding=1), nn.GELU()]
        for outputs in [*[hidden] * (blocks - 1), channels]:
            up += [nn.GELU(), nn.ConvTranspose2d(hidden, outputs, 4, stride=2, padding=1)]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(hidden * side * side, width))
        self.decoder = nn.Sequential(nn.Linear(width, hidden * side * side), nn.Unflatten(1, (hidden, side, side)), *up)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The code."""
        return self.encoder(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The image again, [n, C, H, W]."""
        return self.decoder(self.features(x))


NETWORKS: dict[str, type[nn.Module]] = {
    network.__name__: network
    for network in (SmallClassifier, PlaceClassifier, DenseClassifier, DenseAutoencoder, ConvolutionalAutoencoder)
}
