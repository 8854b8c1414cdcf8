"""JPEGs decoded on the GPU that holds the models (torchvision's nvJPEG); whatever else comes, in processes.

The GPU decodes in the models' own process, without the shelter of `DecoderPool`: for images from a source
that is trusted. It gets plain JPEGs only, told by their headers: three components or one, 8 bits, upright, of
at most `images.LARGE` pixels.
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
    """Decodes batches as `DecoderPool` does, plain JPEGs on a GPU."""

    def __init__(self, pool: DecoderPool, device: str | torch.device) -> None:
        """Take over `pool`, for all that the GPU does not decode."""
        self.pool = pool
        self.device = torch.device(device)

    def decode(self, batch: Sequence[bytes]) -> list[Decoded]:
        """Decode a batch; see `GpuPending.result`."""
        return self.start(batch).result()

    def start(self, batch: Sequence[bytes]) -> "GpuPending":
        """Begin with what the processes decode; the GPU's part is done when the result is asked for."""
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
        """`plain` says what is for the GPU; `rest` is under way elsewhere."""
        self._decoder, self._batch, self._plain, self._rest = decoder, batch, plain, rest

    def result(self) -> list[Decoded]:
        """Wait for the batch; as `Pending.result`. What the GPU cannot decode the processes try again."""
        chosen = [data for data, plain in zip(self._batch, self._plain, strict=True) if plain]
        ours: list[Decoded]
        try:
            ours = [_picture(pixels) for pixels in _decode(chosen, self._decoder.device)]
        except RuntimeError as error:
            log.warning("%d JPEGs go from the GPU to the processes: %s", len(chosen), str(error)[:200])
            ours = self._decoder.pool.decode(chosen)
        on_gpu, elsewhere = iter(ours), iter(self._rest.result())
        return [next(on_gpu if plain else elsewhere) for plain in self._plain]


def _decode(batch: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
    """JPEGs -> [3, H, W] uint8 each, on the device."""
    if not batch:
        return []
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in batch]
    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)


def _picture(pixels: torch.Tensor) -> Picture:
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
    return Picture(array, array.shape[1], array.shape[0])


def is_plain_jpeg(data: bytes) -> bool:
    """Whether an image is a JPEG that every decoder reads alike: whole, RGB or gray, upright, not large."""
    if not data.startswith(_START):
        return False
    place = len(_START)
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, (length,) = data[place + 1], struct.unpack_from(">H", data, place + 2)
        segment = data[place + 4 : place + 2 + length]
        if marker in _FRAMES:
            return _is_plain_frame(segment) and _is_whole(data) and jpeg.scans(data) <= MOST_PASSES
        turned = marker == _APP1 and segment.startswith(_EXIF) and not _is_upright(segment)
        # Adobe's segment tells that three components are RGB, or four CMYK; nearly all others are YCbCr.
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
    """Whether there is an end after the last scan; an earlier one may be a thumbnail's."""
    return data.rfind(jpeg.END) > data.rfind(jpeg.SCAN_MARKER)


def _is_upright(segment: bytes) -> bool:
    exif = Image.Exif()
    try:
        exif.load(segment)
        return exif.get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # whatever broken EXIF raises; the other decoder knows what to make of it
        return False
