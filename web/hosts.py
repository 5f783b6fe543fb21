"""Parse the names and addresses by which clients reach the server."""

import ipaddress
import re

HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+?)\.?)(?::\d{1,5})?")


def host_name(host: str) -> str:
    """Return a `Host` header without the port, or an empty string if it is invalid."""
    found = HOST.fullmatch(host.lower())
    return (found[1] or found[2]) if found else ""


def is_name(text: str) -> bool:
    """Return whether a text is a name or an address as returned by `host_name`."""
    if ":" not in text:
        return host_name(text) == text.lower() != ""
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def is_loopback(name: str) -> bool:
    """Return whether a name or an address refers to the loopback interface."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def same_address(name: str, address: str) -> bool:
    """Return whether a name is this IP address; IPv4 may be mapped to IPv6."""
    try:
        one, other = ipaddress.ip_address(name), ipaddress.ip_address(address)
    except ValueError:
        return False
    return one in (other, getattr(other, "ipv4_mapped", None))
