"""Echo requests and replies over IPv4, as inner packets (RFC 791, RFC 792)."""

from ipaddress import IPv4Address

REQUEST, REPLY = 8, 0


def checksum(data):
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0")) for at in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2)


def echo(kind, source, target, rest):
    """A packet; `rest` is identifier, number and content."""
    message = bytes([kind, 0]) + checksum(bytes([kind, 0, 0, 0]) + rest) + rest
    start = bytes([0x45, 0]) + (20 + len(message)).to_bytes(2) + bytes([0, 0, 0, 0, 64, 1])
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    return start + checksum(start + bytes(2) + addresses) + addresses + message


def read(packet):
    """Kind, source, target and rest of an echo request or reply; None if it is something else."""
    if len(packet) < 28 or packet[0] != 0x45 or packet[9] != 1 or packet[20] not in (REQUEST, REPLY):
        return None
    if int.from_bytes(packet[2:4]) != len(packet) or any(checksum(packet[20:])):
        return None
    source, target = (str(IPv4Address(packet[at : at + 4])) for at in (12, 16))
    return packet[20], source, target, packet[24:]
