"""Tell photos from other files by suffix and by content, without a decoder."""

# Suffixes of the formats that can be written, and of those that can be read. HEIC and AVIF need a
# decoder that not every installation has.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
READ_SUFFIXES = (*SUFFIXES, ".jfif", ".jpe", ".mpo", ".gif", ".heic", ".heif", ".hif", ".avif")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
# Brands of the container that HEIC and AVIF share (ISO/IEC 23008-12), at bytes 8 to 12.
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")


def is_photo_start(start: bytes) -> bool:
    """Return whether the first 32 bytes of a file are those of a photo."""
    return (
        start.startswith((PNG_SIGNATURE, b"\xff\xd8\xff", b"GIF8", *TIFF_SIGNATURES))
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[:2] == b"BM" and start[6:10] == bytes(4))
        or (start[4:8] == b"ftyp" and start[8:12] in (*HEIC_BRANDS, *AVIF_BRANDS))
    )
