"""Inverted residual blocks (MobileNetV2, 1801.04381) and the plain convolution that goes before them."""

from torch import Tensor, nn

from networks.complexity import Complexity, batch_norm, conv, strided, total
from networks.operations import Operation, convolution, register


class InvertedResidual(nn.Module):
    """x + body(x) where shapes allow, else body(x); body = 1x1 expand - depthwise - 1x1 project. One that
    expands by 1 has no convolution for it."""

    def __init__(self, body: nn.Module, residual: bool) -> None:
        super().__init__()
        self.body = body
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def _register_mbconv(name: str, expansion: int, kernel: int) -> None:
    def build(c_in: int, c_out: int, stride: int) -> nn.Module:
        middle = expansion * c_in
        expand = [convolution(c_in, middle), nn.BatchNorm2d(middle), nn.ReLU6()] if expansion > 1 else []
        body = nn.Sequential(
            *expand,
            convolution(middle, middle, kernel, stride, groups=middle), nn.BatchNorm2d(middle), nn.ReLU6(),
            convolution(middle, c_out), nn.BatchNorm2d(c_out),
        )  # fmt: skip
        return InvertedResidual(body, residual=c_in == c_out and stride == 1)

    def complexity(c_in: int, c_out: int, h: int, w: int, stride: int) -> Complexity:
        middle = expansion * c_in
        expand = [conv(c_in, middle, h, w), batch_norm(middle)] if expansion > 1 else []
        return total([
            *expand,
            conv(middle, middle, h, w, kernel=kernel, stride=stride, groups=middle), batch_norm(middle),
            conv(middle, c_out, *strided(h, w, stride)), batch_norm(c_out),
        ])  # fmt: skip

    register(Operation(name, "O", build, complexity))


_register_mbconv("mbconv1_3x3", 1, 3)
MBCONVS = tuple(f"mbconv{expansion}_{kernel}x{kernel}" for kernel in (3, 5, 7) for expansion in (3, 6))
for _name in MBCONVS:
    _register_mbconv(_name, int(_name[6]), int(_name[8]))

register(
    Operation(
        "conv_bn_relu_3x3",
        "O",
        lambda c_in, c_out, stride: nn.Sequential(
            convolution(c_in, c_out, 3, stride), nn.BatchNorm2d(c_out), nn.ReLU()
        ),
        lambda c_in, c_out, h, w, stride: conv(c_in, c_out, h, w, kernel=3, stride=stride).plus(
            batch_norm(c_out)
        ),
    )
)
