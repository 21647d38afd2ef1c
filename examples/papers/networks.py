"""The networks of the four papers, for images of 32x32 pixels. Each takes normalised images and gives logits.

Where a paper leaves a number open (widths, kernels, the size of a hidden layer), the docstring says what was chosen.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CNN", "CNNLSTM", "AlexNet", "EvenDeeperCNN", "ResNet50", "SmallCNN"]


class SmallCNN(nn.Sequential):
    """Paper 1's: two convolutional layers with batch norm, dropout and max pooling, a sequential head, log-softmax.

    Figure 1, which has the widths, did not come with the text: 32 and 64 channels of 3x3 and a hidden layer of 128
    are chosen here, and dropout of 0.25 and 0.5. Log-probabilities are logits too: a shift that all classes share.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__(
            *self.layer(3, 32),
            *self.layer(32, 64),
            nn.Flatten(),
            nn.Sequential(nn.Linear(64 * 8 * 8, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, classes)),
            nn.LogSoftmax(dim=1),
        )

    @staticmethod
    def layer(channels: int, width: int) -> list[nn.Module]:
        """A convolution and what surrounds it; it halves the image."""
        convolution = nn.Conv2d(channels, width, 3, padding=1)
        return [convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)]


class EvenDeeperCNN(nn.Sequential):
    """Paper 2's: six convolutions with ReLU, max pooling after every two of them, three linear layers.

    The paper has no widths: 32, 32, 64, 64, 128, 128 channels of 3x3 and hidden layers of 256 and 128 are chosen here.
    Nor does it say how the weights start. Nine layers without batch norm lose their signal from PyTorch's own start,
    so theirs is that of He et al., "Delving deep into rectifiers" (ICCV 2015), eq. (10).

    Args:
        classes: how many.
        width: the channels of the first two convolutions, of which the others have multiples.
    """

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((3, width, 2 * width, 4 * width)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        head = [nn.Linear(4 * width * 4 * 4, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes)]
        super().__init__(*layers, nn.Flatten(), *head)
        for layer in self:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)


def features() -> nn.Sequential:
    """The convolutions that paper 3's networks share: three pairs of stride 1 and 2, to 128 channels of 4x4."""
    layers: list[nn.Module] = []
    for channels, width in pairwise((3, 32, 64, 128)):
        for inputs, stride in ((channels, 1), (width, 2)):
            layers += [nn.Conv2d(inputs, width, 3, stride, padding=1), nn.ReLU(), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers)


class CNN(nn.Sequential):
    """Paper 3's CNN, section 6.2: six convolutions, each with ReLU and then batch norm, and 64 hidden neurons."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(features(), nn.Flatten(), nn.Linear(128 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, classes))


class CNNLSTM(nn.Module):
    """Paper 3's CNN-LSTM, section 6.3: the same convolutions, then an LSTM of 3 layers with 64 hidden units.

    How the features become a sequence is open: here the 16 places of the last 4x4 map, row by row, are the time
    steps, and the 128 channels are what the LSTM sees at each. Its last output goes through a linear layer.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = features()
        self.lstm = nn.LSTM(128, 64, num_layers=3, batch_first=True)
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, 3, 32, 32)."""
        sequence = self.features(images).flatten(2).transpose(1, 2)
        outputs: Tensor = self.lstm(sequence)[0]
        logits: Tensor = self.head(outputs[:, -1])
        return logits


class AlexNet(nn.Sequential):
    """Paper 4's source of adversarial images: AlexNet, its first kernel and strides shrunk to images of 32x32.

    Args:
        classes: how many.
        hidden: the width of the two hidden linear layers, 4,096 in the original.
    """

    def __init__(self, classes: int = 10, hidden: int = 4096) -> None:
        convolutions: list[nn.Module] = [nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        convolutions += [nn.Conv2d(64, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        for channels, width in pairwise((192, 384, 256, 256)):
            convolutions += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        head: list[nn.Module] = []
        for inputs in (256 * 2 * 2, hidden):
            head += [nn.Dropout(0.5), nn.Linear(inputs, hidden), nn.ReLU()]
        super().__init__(*convolutions, nn.MaxPool2d(2), nn.Flatten(), *head, nn.Linear(hidden, classes))


class ResNet50(nn.Sequential):
    """Paper 4's: the ResNet-50 of ImageNet, stem and all, with ten classes; at 32x32 its last map is a single pixel.

    Args:
        classes: how many.
        width: the channels of the stem, 64 in the original; every other width is a multiple of it.
    """

    def __init__(self, classes: int = 10, width: int = 64) -> None:
        stem = [nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        blocks: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate((3, 4, 6, 3)):
            for block in range(count):
                blocks.append(Bottleneck(inputs, width << stage, stride=2 if stage and not block else 1))
                inputs = 4 * (width << stage)
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        super().__init__(*stem, pool, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Convolution(nn.Conv2d):
    """A convolution without a bias; where it is pointwise or maps are small, the matrix product that suits a CPU."""

    def forward(self, images: Tensor) -> Tensor:
        """Maps (N, C, H, W) to maps."""
        if self.kernel_size != (1, 1) and images.shape[2] > 4:
            return super().forward(images)
        (size, _), (stride, _), (around, _) = self.kernel_size, self.stride, self.padding
        patches = F.pad(images, [around] * 4).permute(0, 2, 3, 1)
        patches = patches.unfold(1, size, stride).unfold(2, size, stride)
        return F.linear(patches.flatten(3), self.weight.flatten(1)).permute(0, 3, 1, 2)


class Bottleneck(nn.Module):
    """A residual block: 1x1 to ``width`` channels, 3x3, and 1x1 to four times as many."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        layers: list[nn.Module] = []
        for channels, channels_out, kernel, step in shapes:
            convolution = Convolution(channels, channels_out, kernel, step, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]
        self.way = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(Convolution(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        """The sum of both ways, rectified."""
        return torch.relu(self.way(images) + self.shortcut(images))
