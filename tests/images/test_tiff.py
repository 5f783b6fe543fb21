"""TIFF files as cameras, scanners and editors write them, against the arrays they were made from.

tifffile writes the samples; what they stand for is worked out here by hand, and where Pillow knows
a kind of file, by Pillow, which is given the bytes rather than the file (it maps files wrongly).
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from images.reading import Photo, read_image, read_photo

Y, X = np.mgrid[:20, :30]
RGB = np.stack([X * 2100, Y * 3300, np.full_like(X, 9000)], -1).astype(np.uint16)
RGB[:5, :5] = 65535  # upper left
FOURTH = ((X + 2 * Y + 20) * 600).astype(np.uint16)[..., None]
# The way the tag is defined: where row 0 and column 0 of the file belong in the upright picture.
TURNS: dict[int, Any] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, 3),
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: np.rot90,
}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gray": (RGB[..., :1], {"photometric": "minisblack"}),
    "rgb": (RGB, {"photometric": "rgb"}),
    "rgba": (
        np.concatenate([RGB, FOURTH], 2),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
    ),
    "cmyk": (np.concatenate([65535 - RGB, FOURTH], 2), {"photometric": "separated"}),
}


def write(path: Path, samples: NDArray[Any], planar: str = "contig", **options: Any) -> None:  # noqa: ANN401
    """Writes H x W x C samples."""
    if samples.shape[2] == 1:
        samples = samples[..., 0]
    else:
        options["planarconfig"] = planar
        samples = samples if planar == "contig" else np.moveaxis(samples, -1, 0)
    tifffile.imwrite(path, samples, **options)


def pixels(photo: Photo) -> NDArray[Any]:
    """H x W x 3 of a photo."""
    return photo.pixels.permute(1, 2, 0).numpy()


def alpha_of(photo: Photo) -> NDArray[Any]:
    """H x W x 1 of a photo with alpha."""
    assert photo.alpha is not None
    return photo.alpha.permute(1, 2, 0).numpy()


def from_inks(inks: NDArray[Any], levels: int) -> NDArray[Any]:
    """Printing inks as light, in floating point."""
    share = inks.astype(np.float64) / levels
    return np.asarray((1 - share[..., :3]) * (1 - share[..., 3:]) * levels)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_orientation_and_layout(tmp_path: Path, kind: str, bits: int, planar: str) -> None:
    samples, options = KINDS[kind]
    samples = samples if bits == 16 else (samples >> 8).astype(np.uint8)
    levels = 2**bits - 1
    for orientation, turn in TURNS.items():
        path = tmp_path / f"{orientation}.tif"
        tag = (274, "H", 1, orientation, True)
        write(path, samples, planar, extratags=[tag], **options)
        found = read_photo(path)
        assert found.levels == levels
        right = from_inks(samples, levels) if kind == "cmyk" else samples[..., :3]
        right = turn(np.broadcast_to(right, (*right.shape[:2], 3)))
        assert np.abs(pixels(found) - right).max() <= (0.51 if kind == "cmyk" else 0)
        if kind == "rgba":
            assert np.array_equal(alpha_of(found), turn(samples[..., 3:]))
        else:
            assert found.alpha is None
        if bits == 8:
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                by_pillow = np.array(image.convert("RGB"))
            assert np.array_equal(pixels(found), by_pillow)
        eight = read_image(path).permute(1, 2, 0).numpy()
        assert np.abs(eight - right * (255 / levels)).max() <= 0.52


def test_white_is_zero(tmp_path: Path) -> None:
    ramp = RGB[..., :1]
    for bits, samples in ((16, ramp), (8, (ramp >> 8).astype(np.uint8))):
        write(tmp_path / "a.tif", ~samples, photometric="miniswhite")
        assert np.array_equal(pixels(read_photo(tmp_path / "a.tif"))[..., :1], samples), bits
    bilevel = X[:, :24, None] % 3 == 0
    for name, shown in (("miniswhite", ~bilevel), ("minisblack", bilevel)):
        write(tmp_path / "b.tif", bilevel, photometric=name)
        found = pixels(read_photo(tmp_path / "b.tif"))
        assert np.array_equal(found[..., :1], shown * np.uint8(255))


@pytest.mark.parametrize("bits", [2, 4, 10, 12, 14])
@pytest.mark.parametrize("kind", ["gray", "rgb"])
def test_odd_depths_fill_the_range(tmp_path: Path, bits: int, kind: str) -> None:
    samples, options = KINDS[kind]
    packed = (samples >> (16 - bits)).astype(np.uint8 if bits < 8 else np.uint16)
    write(tmp_path / "a.tif", packed, bitspersample=bits, **options)
    found = read_photo(tmp_path / "a.tif")
    assert found.levels == (255 if bits < 8 else 65535)
    assert np.abs(pixels(found) - packed * (found.levels / (2**bits - 1))).max() <= 0.5
    assert pixels(found).max() == found.levels


@pytest.mark.parametrize("bits", [8, 16])
def test_extra_channels_are_what_the_file_says(tmp_path: Path, bits: int) -> None:
    levels = 2**bits - 1
    rgb, alpha = ((a >> (16 - bits)).astype(f"u{bits // 8}") for a in (RGB, FOURTH))
    path = tmp_path / "a.tif"
    write(path, np.concatenate([rgb, alpha], 2), photometric="rgb", extrasamples=["unspecified"])
    found = read_photo(path)
    assert found.alpha is None  # a selection or a spot colour
    assert np.array_equal(pixels(found), rgb)
    times_alpha = np.rint(rgb.astype(float) * alpha / levels).astype(rgb.dtype)
    samples = np.concatenate([times_alpha, alpha], 2)
    write(path, samples, photometric="rgb", extrasamples=["assocalpha"])
    found = read_photo(path)
    assert np.array_equal(alpha_of(found), alpha)
    # Multiplying once more gives what was stored.
    assert np.abs(pixels(found) * (alpha / levels) - times_alpha).max() <= 0.51
    write(path, samples * np.array([1, 1, 1, 0], rgb.dtype), photometric="rgb",
          extrasamples=["assocalpha"])  # fmt: skip
    assert alpha_of(read_photo(path)).max() == 0  # wholly transparent: no division by zero
    both = np.concatenate([rgb, 255 - alpha, alpha], 2)
    for planar in ("contig", "separate"):
        write(path, both, planar, photometric="rgb", extrasamples=["unspecified", "unassalpha"])
        found = read_photo(path)
        assert np.array_equal(alpha_of(found), alpha)
        assert np.array_equal(pixels(found), rgb)
        write(path, np.concatenate([rgb[..., :1], alpha], 2), planar, photometric="minisblack",
              extrasamples=["unassalpha"])  # fmt: skip
        found = read_photo(path)
        assert np.array_equal(alpha_of(found), alpha)
        assert np.array_equal(pixels(found)[..., :1], rgb[..., :1])


@pytest.mark.parametrize("options", [
    {"tile": (16, 16)},
    {"compression": "lzw", "predictor": True},
    {"compression": "deflate"},
    {"compression": "packbits"},
    {"compression": "zstd"},
    {"compression": "lzma"},
    {"bigtiff": True, "byteorder": ">"},
    {"rowsperstrip": 3},
])  # fmt: skip
def test_containers_do_not_matter(tmp_path: Path, options: dict[str, Any]) -> None:
    for planar in ("contig", "separate"):
        write(tmp_path / "a.tif", RGB, planar, photometric="rgb", **options)
        assert np.array_equal(pixels(read_photo(tmp_path / "a.tif")), RGB)


def test_jpeg_within_tiff_is_as_pillow_decodes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    eight = (RGB >> 8).astype(np.uint8)
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(eight).save(path, compression="jpeg", exif=exif)
        found = pixels(read_photo(path))
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert np.array_equal(found, np.array(image.convert("RGB")))
        assert np.abs(found - TURNS[orientation](eight).astype(int)).mean() < 8


def test_palettes(tmp_path: Path) -> None:
    index = (X % 16).astype(np.uint8)
    colormap = np.zeros((3, 256), np.uint16)
    colormap[:, :16] = np.random.default_rng(0).integers(0, 256, (3, 16)) * 257
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=colormap)
    found = pixels(read_photo(tmp_path / "a.tif"))
    assert np.array_equal(found, np.moveaxis(colormap[:, index] // 257, 0, -1))
    with Image.open(tmp_path / "a.tif") as image:
        assert np.array_equal(found, np.array(image.convert("RGB")))


def test_alpha_of_a_16_bit_palette_is_scaled_to_the_8_bits_of_its_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    index, colormap = (rng.integers(0, 65536, n).astype(np.uint16) for n in ((4, 2), (3, 65536)))
    alpha = np.array([[0, 128], [129, 1000], [32768, 65407], [65534, 65535]], np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.dstack([index, alpha]),
        photometric="minisblack",
        extrasamples=["unassalpha"],
        planarconfig="contig",
        extratags=[(320, 3, colormap.size, colormap.ravel(), True)],
    )
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        page = file.pages.first
        assert isinstance(page, tifffile.TiffPage)
        page.tags[262].overwrite(3)  # tifffile does not write palettes with alpha
    photo = read_photo(tmp_path / "a.tif")
    assert photo.levels == 255
    assert (pixels(photo) == colormap[:, index].transpose(1, 2, 0) // 256).all()
    assert (alpha_of(photo).squeeze() == [[0, 0], [1, 4], [128, 255], [255, 255]]).all()


def test_lab_is_converted_as_littlecms_does(tmp_path: Path) -> None:
    smooth = np.stack([X * 8, Y * 12, 255 - X * 8], -1).astype(np.uint8)
    srgb = Image.fromarray(smooth)
    lab_profile, srgb_profile = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    lab = ImageCms.profileToProfile(srgb, srgb_profile, lab_profile, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    exact = ImageCms.Flags.NOOPTIMIZE  # else it interpolates in a table, and is off by up to 34
    back = ImageCms.profileToProfile(lab, lab_profile, srgb_profile, outputMode="RGB", flags=exact)
    found = pixels(read_photo(tmp_path / "a.tif")).astype(int)
    difference = np.abs(found - np.array(back).astype(int))
    assert difference.max() <= 1
    # The other encoding, and 16 bits, of one colour: L* 53.24, a* 80.09, b* 67.20 is red (D50).
    for name, dtype, values in (
        ("icclab", np.uint8, (54.29 * 2.55, 80.81 + 128, 69.89 + 128)),
        ("icclab", np.uint16, (54.29 * 652.8, (80.81 + 128) * 256, (69.89 + 128) * 256)),
        ("cielab", np.uint16, (54.29 * 655.35, 80.81 * 256, 69.89 * 256)),
    ):
        samples = np.tile(np.rint(values).astype(dtype), (4, 5, 1))
        write(tmp_path / "b.tif", samples, photometric=name)
        photo = read_photo(tmp_path / "b.tif")
        red = pixels(photo)[0, 0] / photo.levels
        assert np.abs(red - (1, 0, 0)).max() < 0.02, name


def test_what_cannot_be_converted_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "odd.tif"
    for samples, options, reason in (
        (RGB.astype(np.float32), {"photometric": "rgb"}, "floating-point pixels"),
        (RGB.astype(np.uint32), {"photometric": "rgb"}, "32-bit pixels"),
        (RGB.astype(np.int16), {"photometric": "rgb"}, "pixels, whose range is not known"),
        (RGB[..., :1], {"photometric": "cfa"}, "camera raw"),
        (np.tile(RGB, 7), {"photometric": "rgb"}, "decompression bomb"),
        (RGB, {"photometric": "rgb", "extratags": [(50706, "B", 4, b"\1\4\0\0", True)]}, "raw"),
    ):
        write(path, samples, **options)
        with pytest.raises(ValueError, match=reason) as error:
            read_photo(path)
        assert str(error.value).startswith(f"{path}: ")


def test_one_huge_tile_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, RGB, photometric="rgb", tile=(32, 32), compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages.first.tags[name].overwrite(65520)
    with pytest.raises(ValueError, match=r"a\.tif: .*decompression bomb"):
        read_photo(path)


def test_cut_off_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for options in ({}, {"compression": "lzw"}, {"tile": (16, 16)}):
        write(path, RGB, photometric="rgb", **options)
        content = path.read_bytes()
        for length in (len(content) * 2 // 3, len(content) - 40, 200, 9):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"a\.tif: (cannot be read|not an image)"):
                read_photo(path)


def test_pages_after_the_first_are_counted(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (30, 20), color) for color in ("red", "green", "blue")]
    path = tmp_path / "scan.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    found = read_photo(path)
    assert pixels(found)[0, 0].tolist() == [255, 0, 0]
    assert "first of 3 pages" in found.notes[0]
    with tifffile.TiffWriter(path) as file:  # a pyramid, whose copies are no pages
        file.write(RGB, photometric="rgb")
        file.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
    assert read_photo(path).notes == ()
