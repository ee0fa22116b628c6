"""Checks that Hugging Face transformers loads an exported folder and gives the logits of model.py."""
import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluate import load

ap = argparse.ArgumentParser()
ap.add_argument("--package", required=True)
package = Path(ap.parse_args().package)
theirs = AutoModelForCausalLM.from_pretrained(package / "model", dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(package / "model")
text = (package / "text/sample.txt").read_text()[:1500]
ids = tokenizer(text)["input_ids"]
assert ids == [256, *text.encode()], "token id = byte, after <|bos|>"
odd = "h\u00e9llo \u4e16\u754c \x00\x7f\n\n  end"
assert tokenizer.decode(tokenizer(odd, add_special_tokens=False)["input_ids"]) == odd, "round trip"
with torch.no_grad():
    a = theirs(torch.tensor([ids])).logits
    b = load(package / "model")(torch.tensor([ids]))[0]
print("class", type(theirs).__name__, "largest logit difference", (a - b).abs().max().item())
assert (a - b).abs().max() < 1e-3
chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
print(repr(chat), tokenizer(chat, add_special_tokens=False)["input_ids"])
