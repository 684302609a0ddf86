"""Layer outputs as feature maps, also those of networks that divide an image into tokens."""

from __future__ import annotations

import math

from torch import Tensor


def feature_map(output: Tensor, image_size: tuple[int, int]) -> Tensor | None:
    """Return the output of a layer as a feature map, one position for each place in the image.

    - `(N, C, H', W')` is returned as it is.
    - `(N, H', W', C)`, as in a Swin transformer, is recognised by the ratio of rows to columns,
      which is that of the image in the second and third dimension only.
    - `(N, L, C)`, as in a vision transformer, holds tokens. The last ones are the largest grid
      with the image's ratio of rows to columns, row by row; those before it (class token,
      registers) are left out.

    Args:
        output: Output of the layer, any shape.
        image_size: Rows and columns of the images.

    Returns:
        A view of shape `(N, C, H', W')`; null if the output has no grid of two or more positions.

    Examples:
        >>> import torch
        >>> feature_map(torch.zeros(2, 1 + 14 * 14, 192), (224, 224)).shape
        torch.Size([2, 192, 14, 14])
        >>> feature_map(torch.zeros(2, 7, 7, 768), (224, 224)).shape
        torch.Size([2, 768, 7, 7])
    """
    height, width = image_size
    grid = None
    if output.ndim == 4:
        rows, columns = output.shape[1:3]
        # In some networks an odd size is rounded, so only an exact ratio moves the channels.
        is_last = rows * width == columns * height and rows * columns > 1
        is_first = output.shape[2] * width == output.shape[3] * height
        grid = output.permute(0, 3, 1, 2) if is_last and not is_first else output
    elif output.ndim == 3:
        rows, columns = _grid_of(output.shape[1], height, width)
        tokens = output[:, output.shape[1] - rows * columns :].transpose(1, 2)
        grid = tokens.reshape(*tokens.shape[:2], rows, columns) if rows * columns else None
    return grid if grid is not None and grid.shape[2] * grid.shape[3] > 1 else None


def _grid_of(num_tokens: int, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of the largest grid with the image's ratio and so many tokens."""
    divisor = math.gcd(height, width)
    rows, columns = height // divisor, width // divisor
    factor = math.isqrt(num_tokens // (rows * columns))
    return factor * rows, factor * columns
