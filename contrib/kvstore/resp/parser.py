"""
What Redis' clients send: arrays of bulk strings, or a line of words.

The parser is fed with whatever arrives, and keeps no more of it than one
command of the greatest length.  What is wrong with it is said in Redis' words.
"""

from __future__ import annotations

#: The longest line, as Redis has it.
MAX_LINE = 64 * 1024

#: How many words a command may have.
MAX_WORDS = 64 * 1024

#: The same of one whose client has not proven who it is, as Redis has it.
_MAX_WORDS_OF_STRANGERS = 10
_MAX_BULK_OF_STRANGERS = 16 * 1024

# What Python needs for a word besides its bytes.
_WORD = 48

# No number that counts has more digits.
_MAX_DIGITS = 18

_ESCAPES = {
    ord("n"): b"\n",
    ord("r"): b"\r",
    ord("t"): b"\t",
    ord("b"): b"\b",
    ord("a"): b"\a",
}
_SPACE = b" \t\n\r\v\f\0"
_HEX = b"0123456789abcdefABCDEF"


class Parser:
    """
    Turns bytes into commands, each a list of words.

    Args:
        max_bulk: The longest word.
        max_command: The most that the words of one command may have together.
    """

    def __init__(self, max_bulk: int, max_command: int) -> None:
        self._max_bulk = max_bulk
        self._max_command = max_command
        #: Has the client proven who it is, if it has to?
        self.is_trusted = True
        #: What was wrong; nothing is understood from there on.
        self.error = ""
        self._words: list[bytes] = []
        self._missing = 0
        self._size = 0
        self._rest: list[bytes] = []
        self._held = 0
        self._needed = 0

    def feed(self, data: bytes) -> list[list[bytes]]:
        """Return the commands that *data* completes."""
        if self.error:
            return []
        if self._rest:
            self._rest.append(data)
            self._held += len(data)
            # A large word that comes in pieces is put together once.
            if self._held < self._needed:
                return []
            data = b"".join(self._rest)
            self._rest = []
        commands: list[list[bytes]] = []
        position = self._parse(data, commands)
        if position < len(data) and not self.error:
            self._rest = [data[position:]]
            self._held = len(data) - position
        return commands

    def _parse(self, data: bytes, commands: list[list[bytes]]) -> int:
        """Append to *commands* what *data* has; return how far that goes."""
        position, end = 0, len(data)
        self._needed = 0
        while position < end:
            if not self._missing:
                if data[position] != ord("*"):
                    after = self._line(data, position, commands)
                else:
                    after = self._count(data, position)
                if after < 0:
                    return position
                position = after
                continue
            after = self._word(data, position)
            if after < 0:
                return position
            position = after
            self._missing -= 1
            if not self._missing:
                commands.append(self._words)
                self._words = []
                self._size = 0
        return position

    def _count(self, data: bytes, position: int) -> int:
        """Take how many words follow; return where, or -1 if more has to come."""
        stop = data.find(b"\r\n", position, position + MAX_LINE)
        if stop < 0:
            return self._unfinished(data, position, "too big mbulk count string")
        digits = data[position + 1 : stop]
        if digits.isdigit() and len(digits) <= _MAX_DIGITS:
            count = int(digits)
        elif digits[:1] == b"-" and digits[1:].isdigit():
            count = 0
        else:
            return self._refuse("invalid multibulk length")
        if count > MAX_WORDS:
            return self._refuse("invalid multibulk length")
        if count > _MAX_WORDS_OF_STRANGERS and not self.is_trusted:
            return self._refuse("unauthenticated multibulk length")
        self._missing = count
        return stop + 2

    def _word(self, data: bytes, position: int) -> int:
        """Take one word; return where it ends, or -1 if more has to come."""
        stop = data.find(b"\r\n", position, position + MAX_LINE)
        if stop < 0:
            return self._unfinished(data, position, "too big bulk count string")
        digits = data[position + 1 : stop]
        if data[position] != ord("$"):
            return self._refuse(f"expected '$', got '{chr(data[position])}'")
        length = int(digits) if digits.isdigit() and len(digits) <= _MAX_DIGITS else -1
        size = self._size + length + _WORD
        complaint = self._complaint(length, size)
        if complaint:
            return self._refuse(complaint)
        begin = stop + 2
        end = begin + length
        if end + 2 > len(data):
            self._needed = end + 2 - position
            return -1
        self._size = size
        self._words.append(data[begin:end])
        return end + 2

    def _complaint(self, length: int, size: int) -> str:
        """Return what is wrong with a word, and with all of them; empty if nothing."""
        if not 0 <= length <= self._max_bulk:
            return "invalid bulk length"
        if size > self._max_command:
            return "too big command"
        if length > _MAX_BULK_OF_STRANGERS and not self.is_trusted:
            return "unauthenticated bulk length"
        return ""

    def _line(self, data: bytes, position: int, commands: list[list[bytes]]) -> int:
        """Take a line of words; return where it ends, or -1."""
        stop = data.find(b"\n", position, position + MAX_LINE)
        if stop < 0:
            return self._unfinished(data, position, "too big inline request")
        words = split(data[position:stop].removesuffix(b"\r"))
        if words is None:
            return self._refuse("unbalanced quotes in request")
        if words:
            commands.append(words)
        return stop + 1

    def _unfinished(self, data: bytes, position: int, complaint: str) -> int:
        if len(data) - position >= MAX_LINE:
            return self._refuse(complaint)
        return -1

    def _refuse(self, complaint: str) -> int:
        self.error = f"Protocol error: {complaint}"
        self._words = []
        return -1


def size_of(words: list[bytes]) -> int:
    """Return how much memory *words* take, about."""
    return sum(map(len, words)) + _WORD * len(words)


def split(line: bytes) -> list[bytes] | None:
    r"""
    Return the words of *line*, which may be in quotes; ``None`` if one is open.

    In double quotes a backslash begins an escape, ``\n`` or ``\x41``; in
    single quotes it only saves a quote.
    """
    words: list[bytes] = []
    position, end = 0, len(line)
    while True:
        while position < end and line[position] in _SPACE:
            position += 1
        if position == end:
            return words
        word = bytearray()
        position = _take(line, position, word)
        if position < 0:
            return None
        words.append(bytes(word))


def _take(line: bytes, position: int, word: bytearray) -> int:
    """Put the word that begins at *position* into *word*; return its end, or -1."""
    while position < len(line):
        byte = line[position]
        if byte in _SPACE:
            return position
        position += 1
        if byte in b"\"'":
            take = _take_double if byte == ord('"') else _take_single
            position = take(line, position, word)
            # A closing quote ends the word.
            if position < 0 or line[position : position + 1].strip(_SPACE):
                return -1
            return position
        word.append(byte)
    return position


def _take_double(line: bytes, position: int, word: bytearray) -> int:
    while position < len(line):
        byte = line[position]
        position += 1
        if byte == ord('"'):
            return position
        if byte == ord("\\") and position < len(line):
            digits = line[position + 1 : position + 3]
            escaped = line[position]
            if escaped == ord("x") and len(digits) == 2 and not digits.strip(_HEX):  # noqa: PLR2004 - a byte in hexadecimal
                word.append(int(digits, 16))
                position += 3
            else:
                word += _ESCAPES.get(escaped, bytes((escaped,)))
                position += 1
        else:
            word.append(byte)
    return -1


def _take_single(line: bytes, position: int, word: bytearray) -> int:
    while position < len(line):
        byte = line[position]
        position += 1
        if byte == ord("'"):
            return position
        if byte == ord("\\") and line[position : position + 1] == b"'":
            byte = ord("'")
            position += 1
        word.append(byte)
    return -1
