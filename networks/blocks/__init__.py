"""Families of blocks: operations that are whole sub-networks. Importing this registers all of them."""

from networks.blocks import darts, mobile, residual, shuffle  # noqa: F401
from networks.operations import find_operation

__all__ = ["find_operation"]
