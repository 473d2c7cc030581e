"""Operations of ResNet (1512.03385), VGG (1409.1556) and MobileNetV2 (1801.04381) as links of a graph: the
branches of their blocks without the shortcuts, which are links of their own.

A branch begins with its ReLU and ends with its batch normalisation, so that a block's sum is rectified by
whoever reads it. The published order has the ReLU after the sum; parameters and multiply-adds are the same.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from networks.complexity import Complexity, batch_norm, conv, strided, total
from networks.operations import Operation, PreActivated, convolution, register


class PaddedSkip(nn.Module):
    """Every second pixel, and channels of zeros: ResNet's shortcut without weights (option A)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = c_out - c_in, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


def _padded(c_in: int, c_out: int, stride: int) -> nn.Module:
    if c_out < c_in:
        raise ValueError(f"padded_skip cannot map {c_in} channels to {c_out}")
    return nn.Identity() if (c_in, stride) == (c_out, 1) else PaddedSkip(c_in, c_out, stride)


register(Operation("padded_skip", "S", _padded, lambda c_in, c_out, h, w, stride: Complexity()))


def _projected(c_in: int, c_out: int, stride: int) -> nn.Module:
    if (c_in, stride) == (c_out, 1):
        return nn.Identity()
    return nn.Sequential(convolution(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))


def _projected_cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
    if (c_in, stride) == (c_out, 1):
        return Complexity()
    return conv(c_in, c_out, h, w, stride=stride).plus(batch_norm(c_out))


register(Operation("projected_skip", "S", _projected, _projected_cost))


def _basic(c_in: int, c_out: int, stride: int) -> nn.Module:
    """3x3 with the stride, 3x3."""
    return PreActivated(
        convolution(c_in, c_out, 3, stride), nn.BatchNorm2d(c_out), nn.ReLU(),
        convolution(c_out, c_out, 3), nn.BatchNorm2d(c_out),
    )  # fmt: skip


def _basic_cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
    return total([
        conv(c_in, c_out, h, w, kernel=3, stride=stride), batch_norm(c_out),
        conv(c_out, c_out, *strided(h, w, stride), kernel=3), batch_norm(c_out),
    ])  # fmt: skip


register(Operation("basic_block", "O", _basic, _basic_cost))


def _bottleneck(c_in: int, c_out: int, stride: int) -> nn.Module:
    """1x1 to a quarter of the width, 3x3 with the stride, 1x1 back."""
    thin = c_out // 4
    return PreActivated(
        convolution(c_in, thin), nn.BatchNorm2d(thin), nn.ReLU(),
        convolution(thin, thin, 3, stride), nn.BatchNorm2d(thin), nn.ReLU(),
        convolution(thin, c_out), nn.BatchNorm2d(c_out),
    )  # fmt: skip


def _bottleneck_cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
    thin = c_out // 4
    return total([
        conv(c_in, thin, h, w), batch_norm(thin),
        conv(thin, thin, h, w, kernel=3, stride=stride), batch_norm(thin),
        conv(thin, c_out, *strided(h, w, stride)), batch_norm(c_out),
    ])  # fmt: skip


register(Operation("bottleneck", "O", _bottleneck, _bottleneck_cost))


def _vgg(c_in: int, c_out: int, stride: int) -> nn.Module:
    """ReLU, 2x2 max pool where the size is halved, 3x3 convolution with a bias."""
    pool = [nn.MaxPool2d(2, 2, ceil_mode=True)] if stride == 2 else []
    return PreActivated(*pool, nn.Conv2d(c_in, c_out, 3, padding=1))


def _vgg_cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
    return conv(c_in, c_out, *strided(h, w, stride), kernel=3).plus(Complexity(params=c_out))


register(Operation("vgg_conv_3x3", "O", _vgg, _vgg_cost))


def _register_inverted(expansion: int) -> None:
    """MobileNetV2's branch: 1x1 to so many times the width, depthwise 3x3, 1x1, the last without ReLU."""

    def build(c_in: int, c_out: int, stride: int) -> nn.Module:
        wide = expansion * c_in
        expand = [convolution(c_in, wide), nn.BatchNorm2d(wide), nn.ReLU6()] if expansion > 1 else []
        return nn.Sequential(
            *expand,
            convolution(wide, wide, 3, stride, groups=wide), nn.BatchNorm2d(wide), nn.ReLU6(),
            convolution(wide, c_out), nn.BatchNorm2d(c_out),
        )  # fmt: skip

    def cost(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
        wide = expansion * c_in
        expand = [conv(c_in, wide, h, w), batch_norm(wide)] if expansion > 1 else []
        return total([
            *expand,
            conv(wide, wide, h, w, kernel=3, stride=stride, groups=wide), batch_norm(wide),
            conv(wide, c_out, *strided(h, w, stride)), batch_norm(c_out),
        ])  # fmt: skip

    register(Operation(f"inverted{expansion}_3x3", "O", build, cost))


for _expansion in (1, 6):
    _register_inverted(_expansion)
