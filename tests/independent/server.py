"""The server's end of a keyed link, for one client."""

from keyed import CHAL, DATA, NO_KEY, OPEN, PING, Pair, Refused

SECOND, OVERLAP, LIFE = 1, 60, 1800
NUDGES = 20


class Server:
    def __init__(self, link):
        self.link = link
        self.forget()
        self.nudges = (None, 0)

    def forget(self):
        """All that a restart takes; the client's next packet gets a nudge."""
        self.challenge = self.session = self.previous = self.address = None
        self.born = float("-inf")
        self.opened_by, self.highest_open = None, 0

    def send_data(self, text):
        self.transmit(self.session.seal(b"down", text), self.address)

    def ready(self):
        return self.session is not None and self.address is not None

    def answer(self, source):
        """Under the session: the previous one only receives."""
        self.transmit(self.session.seal(b"down"), source)

    def challenge_for(self, number, echo, source):
        if not self.challenge:
            self.challenge = Pair()
        chal = self.link.handshake(CHAL, number, echo, self.challenge.public)
        self.transmit(chal, source)

    def turn(self, now):
        """What is due."""
        if self.previous and now - self.born >= OVERLAP:
            self.previous = None
        if self.session and now - self.born >= LIFE:
            self.session = None
            self.say("session too old")

    def receive(self, packet, source, now):
        """The text of a packet for the tun, or None."""
        if packet[:8] != self.link.client:
            raise Refused("not the client's identifier")
        if packet[8] == OPEN:
            return self.opened(packet, source, now)
        if packet[8] not in (DATA, PING):
            raise Refused("unknown type")
        if packet[8] == PING and len(packet) != 32:
            raise Refused("a PING with content")
        for session in filter(None, (self.session, self.previous)):
            if session.name == packet[9:12]:
                return self.data(session, packet, source)
        return self.nudge(packet, source, now)

    def opened(self, packet, source, now):
        number, client_public, server_public = self.link.read_handshake(OPEN, packet)
        if self.session and self.opened_by == (client_public, server_public):
            if number <= self.highest_open:
                raise Refused("an OPEN again")
            self.highest_open = number
            self.answer(source)
            self.say("OPEN of the session answered")
        elif self.challenge and server_public == self.challenge.public:
            if now - self.born < SECOND:
                raise Refused("sessions too fast")
            pair, self.challenge = self.challenge, None
            shared = pair.shared(client_public)
            self.previous = self.session
            self.session = self.link.session(client_public, server_public, shared)
            self.opened_by, self.highest_open = (client_public, server_public), number
            self.born = now
            self.say(f"session {self.session.name.hex()} up")
            self.move(source)
            self.answer(source)
        else:
            self.challenge_for(number, client_public, source)
            kind = "without" if server_public == NO_KEY else "with another"
            self.say(f"OPEN {number} {kind} challenge: CHAL sent")

    def move(self, source):
        if source != self.address:
            self.address = source
            self.say(f"address {source[0]} {source[1]}")

    def data(self, session, packet, source):
        is_ping = packet[8] == PING
        text, newest = session.open(b"ping" if is_ping else b"data", packet)
        if session is self.session and newest:
            self.move(source)
        if is_ping:
            self.answer(source)
            self.say("PING answered")
            return None
        if not text:
            raise Refused("empty DATA")
        return text

    def nudge(self, packet, source, now):
        second, count = self.nudges
        count = count + 1 if second == int(now) else 1
        self.nudges = (int(now), count)
        if count > NUDGES:
            raise Refused("unknown session")
        self.challenge_for(0, packet[:16] + packet[-16:], source)
        self.say("nudge sent")
