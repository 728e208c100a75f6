"""Files that are nearly right: bytes of valid ones, changed at random."""

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

# What readers stumble over.
TOKENS = [
    *(b"", b"\x00", b"\xff", b"\n", b"{", b"[", b"]", b"}", b'"', b"-", b"1e999", b"NaN", b"null"),
    *(b"-1", b"9" * 30, b"../", b"&a ", b"*a", b"!!python/name:os.system", b"_BASE_: ", b"{}"),
    *(b"\x85" * 50, b"(" * 50, b"[" * 3000, b"R", b"b", b"cos\nsystem\n", b"\xff\xff\xff\x7f"),
]
SECONDS = 20  # for one input; none takes a tenth of it


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to four changes: a byte, a cut, a copy of a part, a token, or numbers swapped."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, end = sorted(rng.randint(0, len(made)) for _ in range(2))
        kind = rng.randrange(6)
        if kind == 0 and at < len(made):
            made[at] = rng.randrange(256)
        elif kind == 1 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del made[at : min(end, at + 40)]
        elif kind == 3:
            made[at:at] = made[at : min(end, at + 200)]
        elif kind == 4:
            made[at : at + rng.randint(0, 4)] = rng.choice(TOKENS)
        elif rng.random() < 0.2:
            del made[at:]
    return bytes(made)


def only_clean_errors(
    read: Callable[[bytes], object], valid: Sequence[bytes], count: int, seed: int
) -> int:
    """Read mutated inputs; all pass or raise a ValueError of one line.

    Returns:
        How many raised one.
    """
    rng = random.Random(seed)
    refused = 0
    for number in range(count):
        content = mutated(rng.choice(valid), rng)
        try:
            with within(SECONDS):
                read(content)
        except ValueError as error:
            refused += 1
            text = str(error)
            assert text and len(text.splitlines()) == 1 and len(text) < 3000, (content, text)
        except BaseException as error:
            raise AssertionError(f"input {number} of seed {seed}: {content!r}") from error
    return refused


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise a TimeoutError inside after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    left = signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(left)
        signal.signal(signal.SIGALRM, before)
