"""The client's end of a keyed link."""

from keyed import CHAL, DATA, NO_KEY, OPEN, PING, Pair, Refused

SECOND, REKEY, LIFE = 1, 600, 1800


class Attempt:
    """A session that is being opened."""

    def __init__(self):
        self.pair = Pair()
        self.public = self.pair.public
        self.server_public = NO_KEY
        self.session = None


class Client:
    def __init__(self, link, server, keepalive, now):
        self.link, self.address, self.keepalive = link, server, keepalive
        self.number = 0
        self.session = self.attempt = None
        self.born = self.heard = self.asked = self.pinged = now
        self.nudged = now - SECOND

    def send_data(self, text):
        self.send(self.session.seal(b"data", text))

    def send(self, packet):
        self.transmit(packet, self.address)

    def ready(self):
        return self.session is not None

    def open(self, now, server_public=NO_KEY):
        """Begins an attempt, in place of one that is under way."""
        self.attempt = Attempt()
        if server_public != NO_KEY:
            self.accept(server_public)
        self.ask(now)

    def accept(self, server_public):
        attempt = self.attempt
        shared = attempt.pair.shared(server_public)
        attempt.pair, attempt.server_public = None, server_public
        attempt.session = self.link.session(attempt.public, server_public, shared)

    def ask(self, now):
        self.asked = now
        self.number += 1
        attempt = self.attempt
        self.send(self.link.handshake(OPEN, self.number, attempt.public, attempt.server_public))
        self.say(f"OPEN {self.number} sent, {'with' if attempt.session else 'without'} challenge")

    def ping(self, now):
        self.pinged = now
        self.send(self.session.seal(b"ping"))
        self.say("PING sent")

    def turn(self, now):
        """What is due."""
        if self.session and now - self.born >= LIFE:
            self.session = None
            self.say("session too old")
        silent = self.keepalive and now - self.heard >= 2 * self.keepalive + 5
        if not self.attempt and (not self.session or now - self.born >= REKEY or silent):
            self.open(now)
        elif self.attempt and now - self.asked >= SECOND:
            self.ask(now)
        if self.session and self.keepalive and now - self.pinged >= self.keepalive:
            self.ping(now)

    def receive(self, packet, source, now):
        """The text of a packet for the tun, or None."""
        if packet[:8] != self.link.server:
            raise Refused("not the server's identifier")
        if packet[8] == CHAL:
            return self.challenged(packet, now)
        if packet[8] != DATA:
            raise Refused("unknown type")
        return self.data(packet, now)

    def challenged(self, packet, now):
        _, echo, server_public = self.link.read_handshake(CHAL, packet)
        attempt = self.attempt
        if attempt and echo == attempt.public:
            if not attempt.session:
                self.say("challenged")
                self.accept(server_public)
                self.ask(now)
            elif server_public != attempt.server_public:
                self.say("challenged anew")
                self.open(now, server_public)
            else:
                raise Refused("the same challenge again")
        elif not (attempt and attempt.session) and self.is_ours(echo):
            if now - self.nudged < SECOND:
                raise Refused("nudges too fast")
            self.nudged = now
            self.say("nudged")
            self.open(now, server_public)
        else:
            raise Refused("a challenge for something else")

    def is_ours(self, echo):
        """Whether this is the header of a packet that was sent in the session."""
        if not self.session:
            return False
        sent = {DATA: self.session.sent[b"data"], PING: self.session.sent[b"ping"]}
        counter = int.from_bytes(echo[12:16])
        named = echo[:8] == self.link.client and echo[9:12] == self.session.name
        return named and 0 < counter <= sent.get(echo[8], 0)

    def data(self, packet, now):
        pending = self.attempt and self.attempt.session
        for session in filter(None, (pending, self.session)):
            if session.name == packet[9:12]:
                text, _ = session.open(b"down", packet)
                self.heard = now
                if session is pending:
                    self.session, self.attempt, self.born = pending, None, now
                    self.say(f"session {session.name.hex()} up")
                    self.ping(now)
                if not text:
                    self.say("answered")
                return text
        raise Refused("unknown session")
