"""Makes the files that a recipe of fuzz_inputs.py describes, always the same ones.

Returned `expected` values are what a reader has to give; None: nothing is known, and it may refuse the file.
"""

import io
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fuzz_inputs import Recipe
from numpy.typing import NDArray
from PIL import Image

CHANNELS = {"LA": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "RGBA": 4, "CMYK": 4}  # others have one


def damaged(data: bytes, damage: Sequence[tuple[str, float, int]]) -> bytes:
    """The bytes after everything that `damage` does to them."""
    content = bytearray(data)
    for what, where, value in damage:
        at = min(int(where * len(content)), max(len(content) - 1, 0))
        if what == "cut":
            del content[at:]
        elif what == "insert":
            content[at:at] = bytes([value]) * (1 + value % 7)
        elif what == "repeat":
            content[at:at] = content[at : at + value]
        elif what == "start":
            content[:1] = bytes([value])
        elif what == "zeros":
            content[at : at + value] = bytes(len(content[at : at + value]))
        elif content:
            content[at] = value if what == "byte" else content[at] ^ 1 << value % 8
    return bytes(content)


def noise(size: Sequence[int], mode: str, seed: int) -> Image.Image:
    """Noise as an image of a mode of Pillow."""
    generator, (width, height) = np.random.default_rng(seed), size
    if mode == "F":
        return Image.fromarray(generator.random((height, width), np.float32))
    if mode in ("I", "I;16"):
        pixels = generator.integers(0, 65_536, (height, width))
        return Image.fromarray(pixels.astype(np.uint16 if mode == "I;16" else np.int32))
    shape = (height, width, CHANNELS[mode]) if mode in CHANNELS else (height, width)
    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    if mode == "1":
        return Image.fromarray(pixels > 127)
    if mode == "P":
        image = Image.fromarray(pixels)
        image.putpalette(generator.permutation(768).astype(np.uint8).tobytes())
        return image
    return Image.frombytes(mode, tuple(size), pixels.tobytes())


def upright(pixels: NDArray, orientation: int) -> NDArray:
    """What a viewer shows of pixels whose EXIF orientation is 1..8."""
    return {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p[::-1].swapaxes(0, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p[:, ::-1].swapaxes(0, 1),
    }.get(orientation, lambda p: p)(pixels)


def write_image(recipe: Recipe, folder: Path) -> tuple[Path, NDArray | None]:
    """Writes a photo; `expected` are its RGB pixels."""
    if "junk" in recipe:
        path = folder / f"photo{recipe['suffix']}"
        path.write_bytes(bytes(recipe["junk"]))
        return path, None
    if "bomb" in recipe:
        (folder / "photo.png").write_bytes(png_that_claims(**recipe))
        return folder / "photo.png", None
    suffix, mode = recipe["format"]
    image, exif = noise(recipe["size"], mode, recipe["seed"]), Image.Exif()
    exif[0x0112] = recipe["orientation"]
    file = io.BytesIO()
    tagged = {"exif": exif} if suffix in (".png", ".jpg", ".tif", ".webp") else {}
    Image.init()
    kind = Image.EXTENSION[suffix]
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    image.save(file, format=kind, **tagged, **options)
    path = folder / f"photo{recipe['suffix'] or suffix}"
    path.write_bytes(damaged(file.getvalue(), recipe["damage"]))
    known = suffix != ".jpg" and mode not in ("CMYK", "YCbCr", "LAB") and (suffix, mode) != (".tif", "I")
    if recipe["damage"] or not known:
        return path, None
    return path, upright(_rgb(image), recipe["orientation"] if tagged else 1)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """8-bit RGB by the range of the type, without our code or Pillow's conversion of deep images."""
    pixels = np.asarray(image)
    if image.mode == "F":
        pixels = np.round(pixels * np.float32(255))
    elif image.mode.startswith("I"):
        pixels = np.round(pixels / 257)
    elif image.mode == "1":
        pixels = pixels * 255
    elif image.mode == "P":
        pixels = np.array(image.getpalette()).reshape(-1, 3)[pixels]
    pixels = pixels[..., :1] if image.mode == "LA" else pixels
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)).astype(np.uint8)


def png_that_claims(bomb: Sequence[int], depth: int, color: int, filled: bool) -> bytes:
    """A PNG of a size, whose pixels, all zero, are there if `filled` (and of no more than the largest size)."""
    width, height = bomb
    row = 1 + (width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color] + 7) // 8
    packer, packed = zlib.compressobj(1), b""
    rows = height if filled and row * height < 600e6 else 1
    for _ in range(rows):
        packed += packer.compress(bytes(row if filled and rows > 1 else 10))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)), (b"PLTE", bytes(range(6)))]
    chunks += [(b"IDAT", packed + packer.flush()), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def write_label_map(recipe: Recipe, path: Path) -> NDArray | None:
    """Writes a label map; `expected` are its stored values, None if it holds something else than one integer each."""
    suffix, mode = recipe["format"]
    image = noise(recipe["size"], mode, 0)
    if mode in ("L", "P", "I;16", "I"):
        top = {"I;16": 65_535, "I": 65_535 if suffix == ".png" else 2**31 - 1}.get(mode, 255)
        shape, kind = (recipe["size"][1], recipe["size"][0]), {"I;16": np.uint16, "I": np.int32}.get(mode, np.uint8)
        lowest = -(2**31) if (mode, suffix) == ("I", ".tif") else 0
        values = np.resize(np.clip(recipe["values"], lowest, top), shape).astype(kind)
        palette, image = image.getpalette() if mode == "P" else None, Image.fromarray(values)
        if palette:
            image.putpalette(palette)
    file = io.BytesIO()
    Image.init()
    image.save(file, format=Image.EXTENSION[suffix])
    path.write_bytes(damaged(file.getvalue(), recipe["damage"]))
    return np.asarray(image).astype(np.int64) if mode in ("1", "L", "P", "I;16", "I") else None


def write_class_names(recipe: Recipe, path: Path) -> list[str] | None:
    """Writes a list of class names; `expected` are the names in it."""
    names = [f"class {number}" for number in range(recipe["many"])] + recipe["names"]
    lines = [f"{name}\t{recipe['colors']}" if recipe["colors"] else name for name in names]
    text = recipe["newline"].join(lines)
    try:
        data = text.encode(recipe["encoding"])
    except UnicodeEncodeError:  # such as emoji in Latin-1
        data = text.encode("utf-8", "replace")
        return path.write_bytes(data) and None
    path.write_bytes(damaged(data, recipe["damage"]))
    return None if recipe["damage"] else names


def weights_of(model: torch.nn.Module, edit: str) -> object:
    """What a checkpoint holds after an edit."""
    weights: dict[str, object] = {name: value.clone() for name, value in model.state_dict().items()}
    first = next(iter(weights))
    if edit == "names":
        return {"model": {f"other.{name}": value for name, value in weights.items()}}
    changed = {
        "shape": torch.zeros(3, 5),
        "huge shape": torch.zeros(1).expand(10**6, 10**6),
        "types": weights[first].double() if edit == "types" else 0,
        "strings": "not a tensor",
        "nested": {"deeper": weights[first]},
        "nan": torch.full_like(weights[first], float("nan")),
    }
    if edit in changed:
        weights[first] = changed[edit]
    if edit == "module":
        weights = {f"module.{name}": value for name, value in weights.items()}
    whole = {"model": weights, "iteration": 3, "config": "MODEL: [" if edit == "config" else "SEED: 1"}
    return {"empty": {}, "list": [1, 2]}.get(edit, whole)


def write_checkpoint(recipe: Recipe, model: torch.nn.Module, folder: Path) -> Path:
    """Writes a checkpoint and returns its path, or that of the link to it."""
    import pickle

    import safetensors.torch

    content, file = weights_of(model, recipe["edit"]), io.BytesIO()
    if recipe["format"] == "pickle" and isinstance(content, dict) and recipe["edit"] != "huge shape":
        weights = content.get("model", {}).items()
        arrays = {name: value.numpy() for name, value in weights if isinstance(value, torch.Tensor)}
        data = pickle.dumps(content | {"model": arrays}, protocol=2)
    elif recipe["format"] == "safetensors" and isinstance(content, dict):
        tensors = {k: v for k, v in content.get("model", {}).items() if isinstance(v, torch.Tensor)}
        claims = recipe["edit"] == "huge shape"
        data = safetensors.torch.save(
            {k: v[:1, :1].clone() if claims and v.numel() > 10**9 else v for k, v in tensors.items()}
        )
        data = data.replace(b"[1,1]", b"[9,9]") if claims else data
    elif recipe["format"] == "script":
        torch.jit.save(torch.jit.trace(model, torch.zeros(1, 48)), file)
        data = file.getvalue()
    else:
        torch.save(content, file, _use_new_zipfile_serialization=recipe["format"] == "zip")
        data = file.getvalue()
    data = damaged(data, recipe["damage"])
    path = folder / f"model{recipe['suffix']}"
    path.write_bytes(data if recipe["kilobytes"] is None else data[: recipe["kilobytes"] * 1024])
    if not recipe["link"]:
        return path
    link = folder / f"link{recipe['suffix']}"
    os.symlink({"file": path, "dangling": folder / "gone", "itself": link, "folder": folder}[recipe["link"]], link)
    return link
