"""Scores an exported folder: passkey and bits per byte with a full cache and with damaged ones.

The damage is done after the context is read and before the question or the scored text:
`drop` forgets the oldest half of the positions (the rest keep their rotary positions); `keys2` rounds
the keys, after RoPE, to 2 bits, per channel, asymmetric, in groups of 32 tokens (the incomplete last
group stays whole), as KIVI does; `keys2values2` also rounds the values, per token over 32 channels.
"""
import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from model import Config, Llama

GROUP = 32


def load(folder: Path) -> Llama:
    raw = json.loads((folder / "config.json").read_text())
    model = Llama(Config(**{k: raw[k] for k in Config.__dataclass_fields__}))
    model.load_state_dict({n: t.float() for n, t in load_file(folder / "model.safetensors").items()})
    return model.eval()


def round_bits(x, dim, bits):
    low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    scale = ((high - low) / (2 ** bits - 1)).clamp_min(1e-8)
    return ((x - low) / scale).round() * scale + low


def keys_rounded(k, bits):
    """k [batch, kvHeads, tokens, dim]."""
    b, h, t, d = k.shape
    whole = t // GROUP * GROUP
    groups = k[:, :, :whole].reshape(b, h, whole // GROUP, GROUP, d)
    return torch.cat([round_bits(groups, 3, bits).reshape(b, h, whole, d), k[:, :, whole:]], 2)


def damage(kv, mode):
    if mode == "full":
        return kv
    if mode == "drop":
        half = kv[0][0].shape[2] // 2
        return [(k[:, :, half:], v[:, :, half:]) for k, v in kv]
    bits = int(mode[4])
    return [(keys_rounded(k, bits), round_bits(v, 3, 2) if mode.endswith("values2") else v) for k, v in kv]


def trials(sample: bytes, form: dict, tokens: int, n: int):
    """The trials of passkey.json: lists of (context, question, answer) token ids."""
    rows = []
    for i in range(n):
        passkey = str(10000 + (i * 7919 + 12345) % 90000)
        needle, question = form["needle"].format(passkey=passkey).encode(), form["question"].encode()
        size = tokens - 1 - len(needle) - len(question) + 1
        at = (i * 4801) % (len(sample) - size)
        filler = sample[at:at + size]
        cut = filler.find(b" ", int((i + 0.5) / n * size))
        if cut < 0:
            cut = filler.rfind(b" ")
        context = [256, *filler[:cut], *needle, *filler[cut + 1:]]
        rows.append((context, list(question), list(form["answer"].format(passkey=passkey).encode())))
    return rows


@torch.no_grad()
def passkey(model, sample, form, tokens, n, modes, batch=20):
    """Share of trials whose five digits are the arg max at every step; by mode, all and per half of depth."""
    hits = {m: [] for m in modes}
    rows = trials(sample, form, tokens, n)
    for first in range(0, n, batch):
        part = rows[first:first + batch]
        context, question, answer = (torch.tensor([r[j] for r in part]) for j in range(3))
        _, kv = model(context)
        tail = torch.cat([question, answer], 1)
        for m in modes:
            logits, _ = model(tail[:, :-1], damage(kv, m), context.shape[1])
            guess = logits.argmax(-1)[:, question.shape[1]:]  # the digits, after the leading space
            digits = form["digits"]
            hits[m] += (guess[:, :digits] == answer[:, 1:1 + digits]).all(1).tolist()
    return {m: dict(all=sum(h) / n, first_half=sum(h[:n // 2]) / (n // 2), second_half=sum(h[n // 2:]) / (n - n // 2)) for m, h in hits.items()}


@torch.no_grad()
def bits_per_byte(model, sample, modes, context=1024, scored=256, windows=60, batch=20):
    """Bits per byte of `scored` bytes after `context` bytes of a damaged cache."""
    total = {m: 0.0 for m in modes}
    stride = (len(sample) - context - scored) // windows
    for first in range(0, windows, batch):
        rows = [[256, *sample[i * stride:i * stride + context + scored]] for i in range(first, min(windows, first + batch))]
        ids = torch.tensor(rows)
        _, kv = model(ids[:, :context])
        for m in modes:
            logits, _ = model(ids[:, context:-1], damage(kv, m), context)
            total[m] += F.cross_entropy(logits.flatten(0, 1), ids[:, context + 1:].flatten(), reduction="sum").item()
    return {m: t / math.log(2) / (windows * scored) for m, t in total.items()}


@torch.no_grad()
def text_score(model, sample, length=1024, windows=100):
    stride = (len(sample) - length) // windows
    losses = 0.0
    for i in range(0, windows, 10):
        ids = torch.tensor([[256, *sample[j * stride:j * stride + length]] for j in range(i, i + 10)])
        losses += F.cross_entropy(model(ids[:, :-1])[0].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
    return losses / math.log(2) / (windows * length)


@torch.no_grad()
def continue_text(model, prompt: bytes, count=200, temperature=0.6, seed=1):
    torch.manual_seed(seed)
    ids = torch.tensor([[256, *prompt]])
    logits, kv = model(ids)
    out, at = [], ids.shape[1]
    for _ in range(count):
        nxt = torch.multinomial((logits[0, -1] / temperature).softmax(-1), 1).item()
        out.append(nxt)
        logits, kv = model(torch.tensor([[nxt]]), kv, at)
        at += 1
    return bytes(t for t in out if t < 256).decode("utf-8", "replace")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--package", required=True, help="the package folder with model/ and text/")
    ap.add_argument("--trials", type=int, default=200)
    ap.add_argument("--tokens", type=int, nargs="+", default=[500, 1000, 1500, 2000])
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--out")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    package = Path(args.package)
    model = load(package / "model")
    form = json.loads((package / "model/passkey.json").read_text())
    sample = (package / "text/sample.txt").read_bytes()
    modes = ["full", "drop", "keys4", "keys2", "keys2values2"]
    scores = dict(
        bits_per_byte_1024=text_score(model, sample),
        bits_per_byte_after_damage=bits_per_byte(model, sample, modes),
        passkey={str(t): passkey(model, sample, form, t, args.trials, modes) for t in args.tokens},
        continuation=continue_text(model, sample[3000:3300]),
        prompt=sample[3000:3300].decode(),
    )
    text = json.dumps(scores, indent=2)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
