"""1x1 convolutions as matrix products, where that is faster: on the CPU, in channels_last."""

import torch
from torch import Tensor, nn

# With a bias, a product first fills its result with it; above this many elements, where the result has
# left the cache by then, the convolution's own kernel wins (benchmarks/RESULTS.md).
BIASED_LIMIT = 1 << 17


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x) for N x C x H x W. In channels_last a 1x1 convolution is the product of the pixels
    (NHW x C) and the weight, without a copy, and BLAS is up to a fifth faster at it, both ways."""
    if not _is_product(layer, x):
        return layer(x)
    assert isinstance(layer, nn.Conv2d)
    n, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(-1, c)
    weight = layer.weight.view(-1, c).t()
    y = torch.mm(pixels, weight) if layer.bias is None else torch.addmm(layer.bias, pixels, weight)
    return y.view(n, h, w, -1).permute(0, 3, 1, 2)


def _is_product(layer: nn.Module, x: Tensor) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (1, 1)
        and layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
        and x.device.type == "cpu"
        and (layer.bias is None or x.numel() <= BIASED_LIMIT)
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
        and not is_hooked(layer)
    )


def is_hooked(module: nn.Module) -> bool:
    """Somebody wants to be told when this module runs, so it must be called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
