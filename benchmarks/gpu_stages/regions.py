"""Measure the images/s of region extraction, from decoded pixels on the host to regions on the host.

The extractors are the detector at its default 800 pixels and the cells of two backbones at 224 to 448.
`tflops_share` is the rate of the network's convolutions and products over the whole time, relative to the
measured rate of a large matrix product of the same data type.
"""

from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice, product

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_stages.extractors import DETECTOR, LITE, RESNET, Extractor
from benchmarks.gpu_stages.inputs import photographs
from benchmarks.gpu_stages.measuring import peak_memory, release, timed
from benchmarks.gpu_stages.setting import Row, Setting
from benchmarks.regions import shares, stopwatch
from glied.vision import images


def cases(setting: Setting) -> list[tuple[Extractor, int, bool]]:
    """Return extractors, batches, and whether all images have one size, in order of importance."""
    detector = [
        (Extractor(model=DETECTOR, side=800), 64, True),
        (Extractor(model=DETECTOR, side=800), 64, False),
        (Extractor(model=DETECTOR, side=800, canvas_step=128), 64, False),
        (Extractor(model=DETECTOR, side=800, dtype="float16"), 64, True),
        (Extractor(model=DETECTOR, side=800, dtype="float32"), 32, True),
    ]
    sides = (224, 448, 260, 320, 384) if setting.full else (224, 448, 320)
    timm = [(Extractor(model=model, side=side), 128, False) for model, side in product((LITE, RESNET), sides)]
    timm += [(Extractor(model=LITE, side=224, dtype="float32"), 128, False)]
    timm += [(Extractor(model=LITE, side=224, together=128), 128, False)]
    detector += [(Extractor(model=DETECTOR, side=800, together=64), 64, True)]
    ordered = [timm[0], *detector[:3], *timm[1:], *detector[3:]]
    return setting.pick([ordered[0], ordered[3]], ordered)


def rows(setting: Setting) -> Iterator[Row]:
    """Yield a row per case."""
    device, few = setting.torch_device, setting.pick(2, 64)
    pixels = {
        one_size: [images.read(data).pixels for data in photographs(few, one_size=one_size)]
        for one_size in (True, False)
    }
    for chosen, batch, one_size in cases(setting):
        pictures = list(islice(cycle(pixels[one_size]), setting.pick(2, batch)))
        with chosen.grouped():
            figures = measure(setting, chosen, pictures)
        yield {"sizes": "640x480" if one_size else "as in COCO"} | figures
        release(device)


def measure(setting: Setting, chosen: Extractor, pictures: list) -> Row:
    """Measure an extractor with a batch of images."""
    device, count = setting.torch_device, len(pictures)
    extractor = chosen.load(setting)
    extract = partial(extractor, pictures)
    extract()  # chooses kernels
    with peak_memory(device) as memory:
        extract()
    seconds, least = setting.pick((0.0, 1), (1.5, 3))
    taken = timed(extract, device, seconds=seconds, least=least, warm_ups=1)
    row: Row = {**vars(chosen), "batch": count, **taken.row(count, "images"), **memory}
    row |= operations(extractor, pictures[:2], taken.median / count, chosen.dtype, setting)
    with stopwatch(extractor, setting.device) as spent:
        again = timed(extract, device, least=1, most=1, warm_ups=0)
    return row | shares(spent, again.median, 0.0)


def operations(extractor: object, pictures: list, seconds: float, dtype: str, setting: Setting) -> Row:
    """Return the GFLOP of an image, and the share of the matrix rate that the extractor reaches."""
    with FlopCounterMode(display=False) as counter:
        extractor(pictures)  # type: ignore[operator]
    each = counter.get_total_flops() / len(pictures)
    rate = setting.ceilings.get(f"tflops_{'bfloat16' if dtype == 'float16' else dtype}", 0.0) * 1e12
    share = round(each / seconds / rate, 3) if rate else None
    return {"gflop": round(each / 1e9, 2), "tflops_share": share}
