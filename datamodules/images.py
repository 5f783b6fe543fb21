"""Image files in and out: what is read is upright RGB, what is written is whole or absent."""

from datamodules.finding import find_images, image_names, list_images, search
from datamodules.pixels import to_array, to_bytes, to_tensor, to_unit
from datamodules.reading import (
    DAMAGED,
    FORMATS,
    SUFFIXES,
    Photo,
    probe,
    read_image,
    read_noted,
    read_photo,
)
from datamodules.writing import (
    check_side,
    current_umask,
    file_sha256,
    write_image,
    write_photo,
)

__all__ = [
    "DAMAGED",
    "FORMATS",
    "SUFFIXES",
    "Photo",
    "check_side",
    "current_umask",
    "file_sha256",
    "find_images",
    "image_names",
    "list_images",
    "probe",
    "read_image",
    "read_noted",
    "read_photo",
    "search",
    "to_array",
    "to_bytes",
    "to_tensor",
    "to_unit",
    "write_image",
    "write_photo",
]
