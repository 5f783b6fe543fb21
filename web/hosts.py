"""Names and addresses under which a server is reached."""

import ipaddress
import re

HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+?)\.?)(?::\d{1,5})?")


def host_name(host: str) -> str:
    """A `Host` header without the port; nothing for what is none."""
    found = HOST.fullmatch(host.lower())
    return (found[1] or found[2]) if found else ""


def is_name(text: str) -> bool:
    """Whether a text is a name or an address as `host_name` gives it."""
    if ":" not in text:
        return host_name(text) == text.lower() != ""
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def is_loopback(name: str) -> bool:
    """Whether a name or an address means this machine alone."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def same_address(name: str, address: str) -> bool:
    """Whether a name is an IP address, and this one; IPv4 may be written within IPv6."""
    try:
        one, other = ipaddress.ip_address(name), ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(other, "ipv4_mapped", None)
    return one in (other, mapped)
