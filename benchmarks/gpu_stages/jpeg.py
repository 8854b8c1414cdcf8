"""Compare the images/s of JPEG decoding in CPU processes and with nvJPEG, at the sizes of COCO's images.

`gpu` is `GpuDecoder` as in the bulk job, which copies the pixels back to the host; `nvjpeg` leaves them on
the device. `cpu_ms_per_image` includes the work of all processes on the machine. The difference between the
GPU's and Pillow's pixels is checked against a bound.
"""

import os
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.gpu_stages.inputs import photographs
from benchmarks.gpu_stages.measuring import busy_cpu_seconds, peak_memory, timed
from benchmarks.gpu_stages.setting import Row, Setting, check
from glied.vision import images
from glied.vision.decoder_pool import DecoderPool
from glied.vision.gpu_decoder import GpuDecoder, is_plain_jpeg
from glied.vision.images import Picture


def rows(setting: Setting) -> Iterator[Row]:
    """Yield a row per method."""
    device = setting.torch_device
    distinct = photographs(setting.pick(4, 64))
    assert all(is_plain_jpeg(data) for data in distinct)
    batch = list(islice(cycle(distinct), setting.pick(8, 512)))
    size = round(sum(map(len, batch)) / len(batch) / 1000)
    about = {"images": len(batch), "kb_per_image": size}
    measure = partial(timed, device=device, seconds=setting.pick(0.0, 1.0), least=setting.pick(1, 3))
    cores = len(os.sched_getaffinity(0))
    for processes in sorted({1, 4, 8, cores}) if not setting.dry else (2,):
        with DecoderPool(processes) as pool:
            part = batch[: max(16, len(batch) * processes // cores)]
            pool.decode(part)
            before = busy_cpu_seconds()
            taken = measure(partial(pool.decode, part), warm_ups=0)
            worked = busy_cpu_seconds() - before
        spent = {"cpu_ms_per_image": round(1000 * worked / (taken.rounds * len(part)), 2)}
        yield {"way": "processes", "processes": processes, **taken.row(len(part), "images"), **spent, **about}
    with DecoderPool(1) as pool:
        decoder = GpuDecoder(pool, device)
        yield from difference(decoder.decode(distinct), distinct)
        for count in setting.pick((8,), (64, 512)):
            taken = measure(partial(decoder.decode, batch[:count]))
            yield {"way": "gpu", "batch": count, **taken.row(count, "images"), **about}
    tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in batch]
    for count in setting.pick((8,), (64, 512)):
        with peak_memory(device) as memory:
            taken = measure(partial(decode_jpeg, tensors[:count], mode=ImageReadMode.RGB, device=device))
        yield {"way": "nvjpeg", "batch": count, **taken.row(count, "images"), **memory, **about}


def difference(decoded: list, encoded: tuple[bytes, ...]) -> Iterator[Row]:
    """Check the mean difference between the pixels and Pillow's, in levels of 0 to 255."""
    levels = []
    for one, data in zip(decoded, encoded, strict=True):
        assert isinstance(one, Picture), one
        expected = images.read(data).pixels.astype(np.int16)
        levels.append(np.abs(one.pixels.astype(np.int16) - expected).mean())
    yield check("pixels of the GPU against Pillow's, mean difference", float(np.mean(levels)), most=3.0)
