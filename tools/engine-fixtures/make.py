"""Makes packages/engine/fixtures from independent implementations: gguf (quantization, file layout), sentencepiece and
tokenizers (ids). Same inputs, same files.

    python -m venv VENV && VENV/bin/pip install -r tools/engine-fixtures/requirements.txt
    VENV/bin/python tools/engine-fixtures/make.py --model SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext2-test.txt \
        --golden golden/engine/golden.json
"""

import argparse
import gzip
import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import tokenizers
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parents[2] / "packages/engine/fixtures"

# Strings that cross the borders of the pre-tokenizers: spaces, digits, contractions, scripts, emoji, odd white space.
TEXTS = [
    "",
    "a",
    "Hello, world!",
    "  two spaces\tand tab\n\nnew lines  \n  x",
    "I'm sure they'LL say it's we've DON'T",
    "naïve café — “quotes” …",
    "日本語のテキスト 한국어 العربية हिन्दी",
    "emoji 👩‍👩‍👧‍👦 👍🏽",
    "1234567890 3.14159 1,000,000 ½ ² Ⅷ ٣٤",
    "def f(x):\n    return x**2  # comment\r\n\r\n",
    "ALLCAPS CamelCase snake_case $x+y=z^2 a|b ~c <d>",
    "nbsp\u00a0here\u2003em\u0085nel\ufeffbom\u200bzero trailing   ",
    " The game 's history = = 2011 @-@ 12 = = \n",
]


def quants() -> None:
    """One file: for every type raw blocks `TYPE.data` and what they mean, `TYPE.values`."""
    rng = np.random.default_rng(7)
    tensors = {}
    for kind in [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K]:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = 512 if block == 1 else max(4, 512 // block)
        data = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
        # Scales are f16: random bits would be infinities and NaN, so give them values, subnormal and negative ones too.
        halves = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q5_0: [0], Type.Q4_1: [0, 2], Type.Q5_1: [0, 2], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}
        for at in halves.get(kind, []):
            scale = rng.normal(0, 0.05, blocks).astype(np.float16)
            scale[0] = np.float16(3e-6)
            scale[1] = np.float16(-0.07)
            data[:, at : at + 2] = scale.view(np.uint8).reshape(blocks, 2)
        if kind in (Type.F16, Type.BF16):
            values = rng.normal(0, 1, blocks).astype(np.float32)
            values[:4] = [0, -0.0, 1e-6, 65504]
            data = gguf.quants.quantize(values, kind).view(np.uint8).reshape(blocks, 2)
        tensors[f"{kind.name.lower()}.data"] = data.reshape(-1)
        tensors[f"{kind.name.lower()}.values"] = np.ascontiguousarray(gguf.quants.dequantize(data.reshape(1, -1), kind).reshape(-1).astype(np.float32))
    save_file(tensors, OUT / "quants.safetensors")


def mini_llama() -> None:
    """The same random two-layer Llama as a GGUF file (Q and K permuted, q8_0) and as a folder of safetensors shards."""
    rng = np.random.default_rng(11)
    layers, hidden, ff, heads, kv_heads, dim, vocab = 2, 32, 64, 4, 2, 8, 40

    def matrix(rows: int, columns: int) -> np.ndarray:
        weights = rng.normal(0, 0.3, (rows, columns)).astype(np.float32)
        held = gguf.quants.dequantize(gguf.quants.quantize(weights, Type.Q8_0), Type.Q8_0).astype(np.float32)
        again = gguf.quants.dequantize(gguf.quants.quantize(held, Type.Q8_0), Type.Q8_0)
        assert np.array_equal(held, again), "q8_0 must keep what it has rounded once"
        return held

    def permute(weights: np.ndarray, n_head: int) -> np.ndarray:
        return weights.reshape(n_head, 2, weights.shape[0] // n_head // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)

    hf = {"model.embed_tokens.weight": matrix(vocab, hidden), "model.norm.weight": rng.normal(1, 0.1, hidden).astype(np.float32), "lm_head.weight": matrix(vocab, hidden)}
    for i in range(layers):
        p = f"model.layers.{i}."
        hf[p + "input_layernorm.weight"] = rng.normal(1, 0.1, hidden).astype(np.float32)
        hf[p + "post_attention_layernorm.weight"] = rng.normal(1, 0.1, hidden).astype(np.float32)
        hf[p + "self_attn.q_proj.weight"] = matrix(heads * dim, hidden)
        hf[p + "self_attn.k_proj.weight"] = matrix(kv_heads * dim, hidden)
        hf[p + "self_attn.v_proj.weight"] = matrix(kv_heads * dim, hidden)
        hf[p + "self_attn.o_proj.weight"] = matrix(hidden, heads * dim)
        hf[p + "self_attn.q_proj.bias"] = rng.normal(0, 0.1, heads * dim).astype(np.float32)
        hf[p + "self_attn.k_proj.bias"] = rng.normal(0, 0.1, kv_heads * dim).astype(np.float32)
        hf[p + "self_attn.v_proj.bias"] = rng.normal(0, 0.1, kv_heads * dim).astype(np.float32)
        hf[p + "self_attn.o_proj.bias"] = rng.normal(0, 0.1, hidden).astype(np.float32)
        hf[p + "mlp.gate_proj.weight"] = matrix(ff, hidden)
        hf[p + "mlp.up_proj.weight"] = matrix(ff, hidden)
        hf[p + "mlp.down_proj.weight"] = matrix(hidden, ff)

    folder = OUT / "mini-llama"
    folder.mkdir(parents=True, exist_ok=True)
    shards = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for name, value in hf.items():
        shards[f"model-0000{2 if 'layers.1' in name else 1}-of-00002.safetensors"][name] = value
    for name, tensors in shards.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(v.nbytes for v in hf.values())}, "weight_map": {n: s for s, t in shards.items() for n in t}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=hidden, intermediate_size=ff, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=dim, vocab_size=vocab, max_position_embeddings=128,
        rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, tie_word_embeddings=False, attention_bias=True, bos_token_id=1, eos_token_id=[2, 3],
    )
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    writer = gguf.GGUFWriter(OUT / "mini-llama.gguf", "llama")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    # every kind of metadata value
    for width in (8, 16, 32, 64):
        getattr(writer, f"add_uint{width}")(f"values.u{width}", 2**width - 1)
        getattr(writer, f"add_int{width}")(f"values.i{width}", -(2 ** (width - 1)))
    writer.add_float32("values.f32", 0.1)
    writer.add_float64("values.f64", 0.1)
    writer.add_bool("values.bool", True)
    writer.add_string("values.string", "naïve \ufeff日本")
    writer.add_array("values.strings", ["a", "", "ü"])
    writer.add_array("values.numbers", [1, -2, 3])
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }
    for name, value in hf.items():
        if "q_proj" in name:
            value = permute(value, heads)
        if "k_proj" in name:
            value = permute(value, kv_heads)
        short = name.replace("model.layers.", "blk.")
        for long, brief in names.items():
            short = short.replace(long, brief)
        if value.ndim == 2:
            writer.add_tensor(short, gguf.quants.quantize(value, Type.Q8_0), raw_dtype=Type.Q8_0)
        else:
            writer.add_tensor(short, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def smollm2(model: Path, golden: Path) -> None:
    """The tokenizer metadata of the real model, gzipped, with the golden ids beside it."""
    fields = gguf.GGUFReader(model).fields
    metadata = {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}
    raw = json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()
    (OUT / "smollm2-tokenizer.json.gz").write_bytes(gzip.compress(raw, 9, mtime=0))
    cases = json.loads(golden.read_text())
    write_json("smollm2-golden.json", {"source": cases["source"], "tokenizer": cases["tokenizer"], "chatTemplate": cases["chatTemplate"]})


def write_json(name: str, value: object) -> None:
    (OUT / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def bpe(text: str) -> None:
    """Small byte-level BPE tokenizers, one for each pre-tokenizer, trained and encoded by the tokenizers package."""
    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    patterns = {
        "gpt-2": [gpt2],
        "smollm": [r"\p{N}", gpt2],
        "llama-bpe": [llama3],
        "qwen2": [llama3.replace("{1,3}", "")],
        "tekken": [
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ],
        "default": [r"[\p{P}\$\+<=>\^~\|]+", gpt2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    }
    out = []
    for pre, regexes in patterns.items():
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
        splits = [tokenizers.pre_tokenizers.Split(tokenizers.Regex(each), "isolated") for each in regexes]
        byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([*splits, byte_level])
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=700, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"], show_progress=False,
        )
        tokenizer.train_from_iterator([text[:200_000], *TEXTS], trainer)
        model = json.loads(tokenizer.to_str())["model"]
        tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
        merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
        out.append({"pre": pre, "tokens": tokens, "merges": merges, "cases": [{"text": each, "ids": tokenizer.encode(each).ids} for each in [*TEXTS, text[300_000:301_000]]]})
    write_json("bpe-tokenizers.json", out)


def spm(text: str) -> None:
    """A small Llama-style sentencepiece BPE model with byte fallback, as GGUF metadata, with ids by sentencepiece."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "text.txt")
        lines.write_text(text[:300_000])
        sentencepiece.SentencePieceTrainer.train(
            input=str(lines), model_prefix=f"{folder}/spm", model_type="bpe", vocab_size=700, byte_fallback=True, split_digits=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, minloglevel=2, num_threads=1,
        )
        model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/spm.model")
    size = model.vocab_size()
    kinds = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in range(size)]
    texts = [each for each in TEXTS if each] + [text[400_000:401_000]]
    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.scores": [model.get_score(i) for i in range(size)], "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.add_bos_token": True,
    }
    write_json("spm-tokenizer.json", {"metadata": metadata, "cases": [{"text": each, "ids": model.encode(each)} for each in texts]})


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", type=Path, required=True, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    arguments.add_argument("--text", type=Path, required=True, help="English text to train the small tokenizers on")
    arguments.add_argument("--golden", type=Path, required=True, help="golden/engine/golden.json")
    given = arguments.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    text = given.text.read_text()
    quants()
    mini_llama()
    smollm2(given.model, given.golden)
    bpe(text)
    spm(text)
