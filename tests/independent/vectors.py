"""What the packets of one exchange must be, byte for byte."""

from keyed import CHAL, OPEN, DATA, HEADER, NO_KEY, TAG, Link, Pair

KEY = bytes(range(32)).hex()
CLIENT, SERVER = b"\xc1" * 8, b"\x5e" * 8
EC, ES = Pair(b"\x11" * 32), Pair(b"\x22" * 32)
# An IPv4 packet from 10.0.0.1 to 10.0.0.2 with one byte of protocol 253.
INNER = bytes.fromhex("450000150000000040fd65ea0a0000010a00000278")


def lines():
    yield f"Ec {EC.public.hex()}"
    yield f"Es {ES.public.hex()}"
    for word in ("seal", "sign"):
        for name, value in exchange(Link(f"{word} {KEY}", CLIENT, SERVER)):
            yield f"{word} {name} {value.hex()}"


def exchange(link):
    yield "check", link.check
    yield "OPEN-1", link.handshake(OPEN, 1, EC.public, NO_KEY)
    yield "CHAL-1", link.handshake(CHAL, 1, EC.public, ES.public)
    yield "OPEN-2", link.handshake(OPEN, 2, EC.public, ES.public)
    session = link.session(EC.public, ES.public, EC.shared(ES.public))
    other = link.session(EC.public, ES.public, ES.shared(EC.public))
    for key in (b"data", b"ping", b"down"):
        yield key.decode(), session.keys[key]
    yield "name", session.name

    def sealed(key, text):
        packet = session.seal(key, text)
        assert other.open(key, packet) == (text, True), "the other end can not open it"
        return packet

    yield "DATA-server-1", sealed(b"down", b"")
    yield "PING-1", sealed(b"ping", b"")
    first = sealed(b"data", INNER)
    assert first[8] == DATA
    yield "DATA-client-1", first
    session.sent[b"data"] = 65535
    yield "DATA-client-65536", sealed(b"data", INNER)
    yield "DATA-server-2", sealed(b"down", INNER)
    yield "CHAL-nudge", link.handshake(CHAL, 0, first[:HEADER] + first[-TAG:], ES.public)


def check(path):
    """Prints where the file differs from what it must hold; the status to exit with."""
    with open(path, encoding="ascii") as file:
        given = file.read().splitlines()
    expected = list(lines())
    for line in given:
        if line not in expected:
            print("unknown:", line)
    for line in expected:
        if line not in given:
            print("missing:", line)
    if given != expected:
        return 1
    print(f"all {len(expected)} lines reproduced")
    return 0
