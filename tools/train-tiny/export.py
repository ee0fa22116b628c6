"""Writes a checkpoint as a Hugging Face folder: config, F16 safetensors, tokenizer, passkey format."""
import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from data import ANSWER, DIGITS, NEEDLE, QUESTION, load_corpus
from model import Config

SPECIAL = ["<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|eos|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_characters() -> list[str]:
    """The printable stand-in of each byte in Hugging Face's ByteLevel alphabet, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, spare = {b: chr(b) for b in plain}, 256
    for b in range(256):
        if b not in table:
            table[b] = chr(spare)
            spare += 1
    return [table[b] for b in range(256)]


def tokenizer() -> dict:
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    bos = dict(SpecialToken=dict(id="<|bos|>", type_id=0))
    return dict(
        version="1.0", truncation=None, padding=None,
        added_tokens=[
            dict(id=256 + i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
            for i, t in enumerate(SPECIAL)
        ],
        normalizer=None,
        pre_tokenizer=level,
        post_processor=dict(
            type="TemplateProcessing",
            single=[bos, dict(Sequence=dict(id="A", type_id=0))],
            pair=[bos, dict(Sequence=dict(id="A", type_id=0)), dict(Sequence=dict(id="B", type_id=1))],
            special_tokens={"<|bos|>": dict(id="<|bos|>", ids=[256], tokens=["<|bos|>"])},
        ),
        decoder=level,
        model=dict(
            type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
            fuse_unk=False, byte_fallback=False, ignore_merges=False,
            vocab={c: b for b, c in enumerate(byte_characters())}, merges=[],
        ),
    )


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--corpus", required=True)
    ap.add_argument("--out", required=True, help="the package folder; model/ and text/ are written in it")
    args = ap.parse_args()
    saved = torch.load(args.checkpoint, weights_only=False)
    c = Config(**saved["config"])
    model, text = Path(args.out) / "model", Path(args.out) / "text"
    model.mkdir(parents=True, exist_ok=True)
    text.mkdir(parents=True, exist_ok=True)

    def write(name, value):
        (model / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    save_file({n: t.half().contiguous() for n, t in saved["model"].items()}, model / "model.safetensors", metadata={"format": "pt"})
    (model / "model.safetensors").chmod(0o644)
    write("config.json", dict(
        architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=c.vocab_size, hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size, num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads, num_key_value_heads=c.num_key_value_heads, head_dim=c.head_dim,
        max_position_embeddings=c.max_position_embeddings, rope_theta=c.rope_theta, rope_scaling=None,
        rms_norm_eps=c.rms_norm_eps, hidden_act="silu", attention_bias=False, attention_dropout=0.0, mlp_bias=False,
        tie_word_embeddings=True, initializer_range=0.03, bos_token_id=256, eos_token_id=257, pad_token_id=257,
        torch_dtype="float16", use_cache=True,
    ))
    write("generation_config.json", dict(bos_token_id=256, eos_token_id=257, pad_token_id=257, do_sample=False, max_new_tokens=128))
    write("tokenizer.json", tokenizer())
    write("tokenizer_config.json", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|eos|>",
        add_bos_token=True, add_eos_token=False, clean_up_tokenization_spaces=False,
        model_max_length=c.max_position_embeddings, chat_template=CHAT_TEMPLATE,
    ))
    write("special_tokens_map.json", dict(bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|eos|>"))
    write("passkey.json", dict(
        needle=NEEDLE, question=QUESTION, answer=ANSWER, digits=DIGITS, filler="../text/sample.txt", bos=True,
        trial=dict(
            tokens=1000,
            rule=[
                "All texts are ASCII, so one byte is one character is one token; the prompt is <|bos|> and tokens - 1 bytes.",
                "F = tokens - 1 - length(needle with passkey) - length(question) + 1 is the filler length.",
                "Trial i of n: passkey = 10000 + (i * 7919 + 12345) mod 90000; filler = sample[s, s + F) with s = (i * 4801) mod (length(sample) - F).",
                "cut = the first space of filler at or after floor((i + 0.5) / n * F), else the last space; the needle replaces this one space.",
                "prompt = filler[0, cut) + needle + filler[cut + 1, F) + question; compress the cache after the filler, before the question.",
                "A hit: the greedy continuation starts with answer (a space, the five digits, a full stop; the digits decide).",
            ],
        ),
    ))
    (text / "sample.txt").write_bytes(load_corpus(args.corpus)[1])


if __name__ == "__main__":
    main()
