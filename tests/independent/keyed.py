"""The keyed link: keys, packets, replay window. No sockets and no clock.

Numbers are big endian, keys and secrets are bytes. Whatever is wrong with a packet is a Refused.
"""

import hmac
import os
import re
from hashlib import blake2s

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

OPEN, CHAL, DATA, PING = 0x11, 0x12, 0x13, 0x14
HEADER, TAG, HANDSHAKE = 16, 16, 96
NO_KEY = bytes(32)
WINDOW = 2016
LAST_COUNTER = 2**32 - 1 - 65536


class Refused(Exception):
    """Why a packet is dropped."""


def keyed_hash(key, message):
    """BLAKE2s-256 with a key (RFC 7693)."""
    return blake2s(message, key=key).digest()


class Pair:
    """A private value of X25519 and its public one."""

    def __init__(self, private=None):
        self.private = private or os.urandom(32)
        self.public = X25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()

    def shared(self, public):
        try:
            private = X25519PrivateKey.from_private_bytes(self.private)
            return private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:  # all zero: the other's is a point of small order
            raise Refused("a public key of small order") from None


class Link:
    """What both ends know before the first packet: the line of the file and the identifiers."""

    def __init__(self, line, client, server):
        match = re.fullmatch("(seal|sign) ([0-9a-fA-F]{64})\n?", line)
        if not match or not int(match[2], 16):
            raise SystemExit("a key is seal or sign, a space, and 64 hex digits that are not all 0")
        self.word, self.key = match[1].encode(), bytes.fromhex(match[2])
        self.client, self.server = client, server
        self.check = self.hash(b"show")[:4]
        self.handshake_keys = {
            OPEN: self.hash(b"open" + client + server),
            CHAL: self.hash(b"chal" + client + server),
        }

    def hash(self, rest):
        return keyed_hash(self.key, b"jtunnel1 " + self.word + b" " + rest)

    def session(self, client_public, server_public, shared):
        keys = self.client + self.server + client_public + server_public
        return Session(self, self.hash(b"sess" + keys + shared))

    def sender(self, kind):
        return self.client if kind == OPEN else self.server

    def handshake(self, kind, number, middle, server_public):
        """An OPEN, whose middle is Ec, or a CHAL, whose middle is the echo."""
        header = self.sender(kind) + bytes([kind, 0, 0, 0]) + number.to_bytes(4)
        text = header + middle + server_public
        return text + keyed_hash(self.handshake_keys[kind], text)[:TAG]

    def read_handshake(self, kind, packet):
        """The three fields that the other end has put into `handshake`."""
        if len(packet) != HANDSHAKE:
            raise Refused("a handshake of another length")
        if packet[9:12] != bytes(3):
            raise Refused("reserved bytes")
        number = int.from_bytes(packet[12:16])
        middle, server_public = packet[16:48], packet[48:80]
        if not hmac.compare_digest(packet, self.handshake(kind, number, middle, server_public)):
            raise Refused("a handshake with a wrong tag or identifier")
        return number, middle, server_public


class Session:
    """The keys of one session, the counters used and those seen. Either end can be played."""

    def __init__(self, link, secret):
        self.link = link
        self.keys = {name: keyed_hash(secret, name) for name in (b"data", b"ping", b"down")}
        self.sent = dict.fromkeys(self.keys, 0)
        # A PING must simply grow.
        self.windows = {b"data": Window(WINDOW), b"ping": Window(0), b"down": Window(WINDOW)}
        name = keyed_hash(secret, b"name")
        self.name = name[:2] + bytes([name[2] | 1])

    def seal(self, key, text=b""):
        if self.sent[key] >= LAST_COUNTER:
            raise Refused("no counter left")
        self.sent[key] += 1
        sender = self.link.server if key == b"down" else self.link.client
        kind = PING if key == b"ping" else DATA
        counter = self.sent[key].to_bytes(4)
        header = sender + bytes([kind]) + self.name + counter
        cipher, nonce = ChaCha20Poly1305(self.keys[key]), bytes(8) + counter
        if self.link.word == b"seal":
            return header + cipher.encrypt(nonce, text, header)
        return header + text + cipher.encrypt(nonce, b"", header + text)

    def open(self, key, packet):
        """The text, and whether no counter under this key was higher."""
        counter = int.from_bytes(packet[12:16])
        window = self.windows[key]
        window.check(counter)
        cipher, nonce = ChaCha20Poly1305(self.keys[key]), bytes(8) + packet[12:16]
        try:
            if self.link.word == b"seal":
                text = cipher.decrypt(nonce, packet[HEADER:], packet[:HEADER])
            else:
                text = packet[HEADER:-TAG]
                cipher.decrypt(nonce, packet[-TAG:], packet[:-TAG])
        except InvalidTag:
            raise Refused("forged") from None
        return text, window.mark(counter)


class Window:
    """Which counters have been seen."""

    def __init__(self, size):
        self.size, self.highest, self.seen = size, 0, 0

    def check(self, counter):
        age = self.highest - counter
        if counter == 0 or age >= 0 and (age >= self.size or self.seen >> age & 1):
            raise Refused("replayed")

    def mark(self, counter):
        newer = counter > self.highest
        if newer:
            self.seen = self.seen << min(counter - self.highest, self.size)
            self.highest = counter
        self.seen = (self.seen | 1 << self.highest - counter) & (1 << self.size) - 1
        return newer
