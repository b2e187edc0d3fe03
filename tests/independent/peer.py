"""One end of a keyed link, without a tun: it answers echo requests that come through the link.

usage: peer.py client [-k SECONDS] ADDRESS PORT CLIENT_ID SERVER_ID KEY
       peer.py server ADDRESS PORT CLIENT_ID SERVER_ID KEY
       peer.py --vectors FILE

KEY is the line of the key file, in one word of the shell. ADDRESS and PORT are the server's: where
the client sends to, where the server listens. Each event is a line of standard output. Standard
input takes commands, one a line:

  ping FROM TO   send an echo request, again each second until the reply comes
  send HEX       send an inner packet once
  open           client: open a new session, the old one goes on meanwhile
  port           client: take another source port
  forget         server: lose sessions and challenge, as by a restart
  quit           end
"""

import getopt
import os
import select
import socket
import sys
import time

import icmp
import vectors
from client import Client
from keyed import Link, Refused
from server import Server


def say(line):
    print(line, flush=True)


class Pings:
    """Echo requests without a reply so far."""

    def __init__(self):
        self.waiting, self.count = {}, 0

    def add(self, source, target):
        self.count += 1
        rest = os.getpid().to_bytes(4)[2:] + (self.count & 0xFFFF).to_bytes(2) + b"independent"
        self.waiting[rest] = [icmp.echo(icmp.REQUEST, source, target, rest), float("-inf")]

    def due(self, now):
        for entry in self.waiting.values():
            if now - entry[1] >= 1:
                entry[1] = now
                yield entry[0]

    def answered(self, rest):
        return self.waiting.pop(rest, None) is not None


class Program:
    def __init__(self, end, udp):
        self.end, self.udp, self.pings, self.input = end, udp, Pings(), b""
        end.say, end.transmit = say, self.transmit

    def transmit(self, packet, address):
        try:
            self.udp.sendto(packet, address)
        except OSError as error:
            say(f"unable to send: {error.strerror}")

    def run(self):
        inputs = [sys.stdin]
        while True:
            now = time.monotonic()
            self.end.turn(now)
            if self.end.ready():
                for packet in self.pings.due(now):
                    self.end.send_data(packet)
            readable, _, _ = select.select([self.udp, *inputs], [], [], 0.05)
            if self.udp in readable:
                self.receive()
            if sys.stdin in readable:
                some = os.read(sys.stdin.fileno(), 65536)
                if not some:
                    inputs = []
                *lines, self.input = (self.input + some).split(b"\n")
                for line in lines:
                    self.command(line.decode().split())

    def receive(self):
        try:
            packet, source = self.udp.recvfrom(65536)
            if len(packet) < 32:
                raise Refused("shorter than 32 bytes")
            text = self.end.receive(packet, source, time.monotonic())
            if text:
                self.inner(text)
        except Refused as reason:
            say(f"dropped: {reason}")
        except OSError as error:
            say(f"unable to receive: {error.strerror}")

    def inner(self, packet):
        if packet[0] >> 4 not in (4, 6):
            raise Refused("not an IP packet")
        match icmp.read(packet):
            case icmp.REQUEST, source, target, rest:
                self.end.send_data(icmp.echo(icmp.REPLY, target, source, rest))
                say(f"echo request from {source} answered")
            case icmp.REPLY, source, _, rest if self.pings.answered(rest):
                say(f"echo reply from {source}")
            case _:
                say(f"inner packet {packet.hex()}")

    def command(self, words):
        match words:
            case ["ping", source, target]:
                self.pings.add(source, target)
            case ["send", digits] if self.end.ready():
                self.end.send_data(bytes.fromhex(digits))
            case ["open"] if isinstance(self.end, Client):
                self.end.open(time.monotonic())
            case ["port"] if isinstance(self.end, Client):
                family = self.udp.family
                self.udp.close()
                self.udp = socket.socket(family, socket.SOCK_DGRAM)
            case ["forget"] if isinstance(self.end, Server):
                self.end.forget()
                say("forgotten")
            case ["quit"]:
                sys.exit(0)
            case _:
                say(f"not now, or not understood: {' '.join(words)}")


def main(words):
    options, operands = getopt.gnu_getopt(words, "k:", ["vectors="])
    options = dict(options)
    if "--vectors" in options:
        sys.exit(vectors.check(options["--vectors"]))
    role, address, port, client_id, server_id, key = operands
    link = Link(key, bytes.fromhex(client_id), bytes.fromhex(server_id))
    say(f"check {link.check.hex()}")
    found = socket.getaddrinfo(address, int(port), type=socket.SOCK_DGRAM)
    family, *_, target = found[0]
    udp = socket.socket(family, socket.SOCK_DGRAM)
    if role == "server":
        udp.bind(target)
        say(f"port {udp.getsockname()[1]}")
        end = Server(link)
    else:
        end = Client(link, target, int(options.get("-k", 25)), time.monotonic())
    Program(end, udp).run()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (getopt.GetoptError, ValueError) as error:
        sys.exit(f"peer.py: {error}\n\n{__doc__}")
