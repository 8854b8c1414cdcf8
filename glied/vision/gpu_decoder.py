"""JPEG decoding on the GPU of the models (torchvision's nvJPEG); a `DecoderPool` decodes all other images.

The GPU decodes in the process of the models, without the isolation of `DecoderPool`, so it is meant for
trusted images. It decodes only JPEGs whose header says that they are plain: one or three components, 8 bits,
upright, at most `images.LARGE` pixels.
"""

import logging
import struct
from collections.abc import Sequence

import numpy as np
import torch
from PIL import ExifTags, Image
from torchvision.io import ImageReadMode, decode_jpeg

from glied.vision.decoder_pool import Decoded, DecoderPool, Pending
from glied.vision.image_formats import jpeg
from glied.vision.images import LARGE, MOST_PASSES, Picture

log = logging.getLogger(__name__)

_START, _EXIF = b"\xff\xd8", b"Exif\0\0"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; others are lossless or arithmetic
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_APP1, _APP14, _SCAN = 0xE1, 0xEE, 0xDA


class GpuDecoder:
    """Decodes batches as `DecoderPool` does, but plain JPEGs on a GPU."""

    def __init__(self, pool: DecoderPool, device: str | torch.device) -> None:
        """Take ownership of `pool`, which decodes all images that the GPU does not."""
        self.pool = pool
        self.device = torch.device(device)

    def decode(self, batch: Sequence[bytes]) -> list[Decoded]:
        """Decode a batch; see `GpuPending.result`."""
        return self.start(batch).result()

    def start(self, batch: Sequence[bytes]) -> "GpuPending":
        """Start decoding in the pool; the GPU decodes its part when the result is requested."""
        plain = [is_plain_jpeg(data) for data in batch]
        rest = self.pool.start([data for data, chosen in zip(batch, plain, strict=True) if not chosen])
        return GpuPending(self, batch, plain, rest)

    def close(self) -> None:
        """End the processes."""
        self.pool.close()


class GpuPending:
    """A batch that is being decoded."""

    def __init__(
        self, decoder: GpuDecoder, batch: Sequence[bytes], plain: Sequence[bool], rest: Pending
    ) -> None:
        """`plain` marks the images for the GPU; `rest` are the others, which the pool is decoding."""
        self._decoder, self._batch, self._plain, self._rest = decoder, batch, plain, rest

    def result(self) -> list[Decoded]:
        """Wait for the batch as `Pending.result` does; if the GPU fails, the pool decodes its images."""
        chosen = [data for data, plain in zip(self._batch, self._plain, strict=True) if plain]
        decoded: list[Decoded]
        try:
            decoded = [_picture(pixels) for pixels in _decode(chosen, self._decoder.device)]
        except RuntimeError as error:
            log.warning("decoding %d JPEGs on the CPU, the GPU failed: %s", len(chosen), str(error)[:200])
            decoded = self._decoder.pool.decode(chosen)
        on_gpu, elsewhere = iter(decoded), iter(self._rest.result())
        return [next(on_gpu if plain else elsewhere) for plain in self._plain]


def _decode(batch: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
    """Decode JPEGs to [3, H, W] uint8 each, on the device."""
    if not batch:
        return []
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in batch]
    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)


def _picture(pixels: torch.Tensor) -> Picture:
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
    return Picture(array, array.shape[1], array.shape[0])


def is_plain_jpeg(data: bytes) -> bool:
    """Whether an image is a JPEG that all decoders read alike: complete, RGB or gray, upright, not large."""
    if not data.startswith(_START):
        return False
    place = len(_START)
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, (length,) = data[place + 1], struct.unpack_from(">H", data, place + 2)
        segment = data[place + 4 : place + 2 + length]
        if marker in _FRAMES:
            return _is_plain_frame(segment) and _is_whole(data) and jpeg.scans(data) <= MOST_PASSES
        turned = marker == _APP1 and segment.startswith(_EXIF) and not _is_upright(segment)
        # Adobe's segment can mean RGB or CMYK components; nearly all other JPEGs are YCbCr.
        if turned or marker in (_APP14, _SCAN, *_OTHER_FRAMES):
            return False
        place += 2 + length
    return False


def _is_plain_frame(segment: bytes) -> bool:
    if len(segment) < 6:
        return False
    precision, height, width, components = struct.unpack_from(">BHHB", segment)
    return precision == 8 and components in (1, 3) and 0 < height * width <= LARGE


def _is_whole(data: bytes) -> bool:
    """Whether there is an end marker after the last scan; an earlier one may belong to a thumbnail."""
    return data.rfind(jpeg.END) > data.rfind(jpeg.SCAN_MARKER)


def _is_upright(segment: bytes) -> bool:
    exif = Image.Exif()
    try:
        exif.load(segment)
        return exif.get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # broken EXIF raises many types; the pool decodes such images
        return False
