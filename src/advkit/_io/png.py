"""Images as PNG files, which need no library."""

import struct
import zlib

from torch import Tensor

__all__ = ["png"]

_GREY, _RGB = 0, 2  # how the format numbers them


def png(image: Tensor) -> bytes:
    """A PNG file of an image.

    Args:
        image: uint8, (1, H, W) for grey or (3, H, W) for RGB.
    """
    channels, height, width = image.shape
    rows = image.cpu().permute(1, 2, 0).reshape(height, width * channels).numpy()
    raw = b"".join(b"\0" + row.tobytes() for row in rows)  # each row begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, _GREY if channels == 1 else _RGB, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
