"""What reaches the terminal about odd files: one line each, with the file's name and a reason."""

import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image
from skimage.color import lab2xyz, xyz2rgb

from images.file_names import printable_name
from images.metadata import png_chunk
from images.reading import read_image, read_photo
from images.writing import write_photo
from tests.conftest import SAMPLE_SCORER, Cli

ODD = "two\nlines\x1b[31m\u2028\u202egnp.png"
ESCAPED = r"two\nlines\x1b[31m\u2028\u202egnp.png"


def test_names_as_they_are_shown() -> None:
    assert printable_name(ODD) == ESCAPED
    assert printable_name(b"not \xff UTF-8".decode(errors="surrogateescape")) == r"not \udcff UTF-8"
    for plain in (
        "zdj\u0119cia [2024]/caf\u00e9 1.png",
        "\u5199\u771f.jpg",
        "narrow\u202fspace.png",
    ):
        assert printable_name(plain) == plain


def test_names_with_control_characters_are_escaped(cli: Cli, folder: Path) -> None:
    (folder / "p").mkdir()
    Image.new("RGB", (24, 24)).save(folder / "p" / ODD)
    (folder / "p" / f"bad{ODD}").write_bytes(b"no image")
    for words in (
        ("enhance", "input=p", "output=out"),
        ("enhance", "input=p", "output=out"),  # results exist
        ("score", "input=p", f"checkpoint={SAMPLE_SCORER}"),
        ("prepare", "dataset=photos", "root=p"),
        ("score", f"input=p/{ODD}.gone"),
    ):
        done = cli(*words)
        assert done.code, words
        assert ESCAPED[:12] in done.out + done.err
        assert not set("\x1b\u2028\u202e") & set(done.out + done.err)
        assert "two\n" not in done.out + done.err


@pytest.mark.parametrize("chunk", [b"ICC\0\0" + zlib.compress(bytes(100)), b"x"])
def test_warnings_of_libpng_do_not_reach_the_terminal(
    folder: Path, capfd: pytest.CaptureFixture[str], chunk: bytes
) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 8, 4), dtype=np.uint16)
    content = bytes(imagecodecs.png_encode(pixels))
    Path("deep.png").write_bytes(content[:33] + png_chunk(b"iCCP", chunk) + content[33:])
    photo = read_photo("deep.png")
    assert photo.alpha is not None
    assert np.array_equal(photo.pixels.permute(1, 2, 0).numpy(), pixels[..., :3])
    assert np.array_equal(photo.alpha[0].numpy(), pixels[..., 3])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content",
    [
        *(b"II*\0", b"II*\0\x08\0\0\0", b"II*\0\0\0\0\0", b"MM\0*\0\0\0\x08", b"II*\0\xff\xff\0\0"),
        *(b"II*\0\x08\0\0\0" + bytes(6), b"II+\0\x08\0\0\0\x10" + bytes(7)),
    ],
)
def test_tiff_files_without_a_picture(folder: Path, content: bytes) -> None:
    Path("a.tif").write_bytes(content)
    with pytest.raises(ValueError, match=r"^a\.tif: .*\(a TIFF file without a picture"):
        read_image("a.tif")


@pytest.mark.parametrize("suffix", ["tif", "jpg", "png", "webp"])
def test_results_have_no_empty_parts_of_exif_data(folder: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "hello"
    for gps in (False, True):
        if gps:
            exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
        Image.new("RGB", (8, 8)).save("a.jpg", exif=exif)
        write_photo(Path(f"b.{suffix}"), read_photo("a.jpg"), overwrite=True)
        with Image.open(f"b.{suffix}") as image:
            written = image.getexif()
            assert written[ExifTags.Base.ImageDescription] == "hello"
            assert ExifTags.IFD.Exif not in written
            assert (ExifTags.IFD.GPSInfo in written) == gps
            assert written.get_ifd(ExifTags.IFD.GPSInfo) == ({1: "N"} if gps else {})


@pytest.mark.parametrize("signed", [True, False], ids=["CIELab", "ICCLab"])
def test_lab_of_16_bits_is_as_scikit_image_converts_it(folder: Path, signed: bool) -> None:
    rng = np.random.default_rng(1)
    lab = rng.uniform((20, -20, -20), (90, 20, 20), (16, 16, 3))
    ab = lab[..., 1:] if signed else lab[..., 1:] + 128
    lightness = np.rint(lab[..., :1] * (65535 if signed else 65280) / 100)
    samples = np.concatenate([lightness, np.rint(ab * 256)], axis=-1)
    samples = samples.astype(np.int32).astype(np.uint16)  # two's complement
    tifffile.imwrite("lab.tif", samples, photometric="rgb")
    with tifffile.TiffFile("lab.tif", mode="r+") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(8 if signed else 9)
    assert np.array_equal(tifffile.imread("lab.tif"), samples)
    # Bradford's matrix from D50 to D65 (brucelindbloom.com)
    adapted = (
        lab2xyz(lab, illuminant="D50", observer="2")
        @ np.array(
            [
                [0.9555766, -0.0230393, 0.0631636],
                [-0.0282895, 1.0099416, 0.0210077],
                [0.0122982, -0.0204830, 1.3299098],
            ]
        ).T
    )
    photo = read_photo("lab.tif")
    assert photo.levels == 65535
    found = photo.pixels.permute(1, 2, 0).numpy() / photo.levels
    assert np.abs(found - xyz2rgb(adapted)).max() < 1e-4
