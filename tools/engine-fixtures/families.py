"""Makes packages/engine/fixtures/families/transformers.json and .safetensors: toys of every family and variant that the engine claims,
run by transformers 4.56 in float32. Same inputs, same files.

    python -m venv VENV && VENV/bin/pip install -r tools/engine-fixtures/requirements-families.txt
    VENV/bin/python tools/engine-fixtures/families.py                   makes the fixtures
    VENV/bin/python tools/engine-fixtures/families.py --folder FOLDER   what transformers computes for a model that saveModel wrote

The second form prints the largest difference to the logits that FOLDER/kvloom-logits.json holds, over the largest of them; packages/engine/src/saved-toys.test.ts
writes such folders.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import toys

OUT = Path(__file__).resolve().parents[2] / "packages/engine/fixtures/families"
TOKENS, GREEDY = 24, 6
#: Where the two best logits are nearer than this, over the largest, rounding may choose: greedy tokens are listed up to there.
CLEAR = 1e-4

COMMON = dict(
    vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=1000.0, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=256)
ABSENT = object()


def cases():
    """Name, settings over COMMON (ABSENT takes one away), and how the folder is written."""
    for family in ["llama", "mistral", "qwen2", "qwen3"]:
        yield f"{family}", dict(model_type=family), {}
        yield f"{family}, tied", dict(model_type=family, tie_word_embeddings=True), {}
        yield f"{family}, as transformers saves it", dict(model_type=family), dict(saved=True)
        yield f"{family}, in shards", dict(model_type=family), dict(saved=True, shard="60KB")
        yield f"{family}, base model, names without model.", dict(model_type=family, tie_word_embeddings=True), dict(saved=True, base=True)
        yield f"{family}, one KV head", dict(model_type=family, num_key_value_heads=1), {}
        yield f"{family}, a KV head for each query head", dict(model_type=family, num_key_value_heads=4), {}
        yield f"{family}, wide heads", dict(model_type=family, head_dim=24), {}
        yield f"{family}, linear", dict(model_type=family, rope_scaling=dict(rope_type="linear", factor=2.0)), {}
        yield f"{family}, llama3", dict(model_type=family, rope_scaling=LLAMA3), {}
        yield f"{family}, yarn", dict(model_type=family, head_dim=16, rope_scaling=YARN), {}
    for activation in [
        "swish", "gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu2",
    ]:
        yield f"llama, {activation}", dict(model_type="llama", hidden_act=activation), {}
    for family in ["mistral", "qwen2", "qwen3"]:
        for activation in ["gelu", "relu"]:
            yield f"{family}, {activation}", dict(model_type=family, hidden_act=activation), {}
    yield "llama, biases of attention", dict(model_type="llama", attention_bias=True), {}
    yield "llama, biases of the MLP", dict(model_type="llama", mlp_bias=True), {}
    yield "llama, all biases", dict(model_type="llama", attention_bias=True, mlp_bias=True, hidden_act="gelu_new"), {}
    yield "qwen3, biases of attention", dict(model_type="qwen3", attention_bias=True), {}
    yield "qwen3, the width of heads left out", dict(model_type="qwen3", head_dim=ABSENT), {}
    yield "mistral, KV heads left out", dict(model_type="mistral", num_attention_heads=8, num_key_value_heads=ABSENT), {}
    yield "llama, KV heads left out", dict(model_type="llama", num_key_value_heads=ABSENT), {}
    yield "llama, tying left out", dict(model_type="llama", tie_word_embeddings=ABSENT, rms_norm_eps=ABSENT, rope_theta=ABSENT), {}
    yield "llama, type by the old name", dict(model_type="llama", rope_scaling=dict(type="linear", factor=4.0)), {}
    yield "llama, type default", dict(model_type="llama", rope_scaling=dict(rope_type="default")), {}
    for words, more in {
        "mscale": dict(mscale=0.7, mscale_all_dim=1.3),
        "mscale alone": dict(mscale=0.7),
        "not truncated": dict(truncate=False),
        "attention factor": dict(attention_factor=1.3),
        "attention factor beside mscale": dict(attention_factor=1.3, mscale=0.7, mscale_all_dim=1.3),
        "betas": dict(beta_fast=8, beta_slow=2),
        "betas, not truncated": dict(beta_fast=6.5, beta_slow=1.5, truncate=False),
        "no factor": dict(factor=1.0),
        "the context of the model": dict(original_max_position_embeddings=None),
    }.items():
        yield f"llama, yarn, {words}", dict(model_type="llama", rope_scaling={**YARN, **more}), {}
        yield f"qwen2, yarn, {words}", dict(model_type="qwen2", rope_scaling={**YARN, **more}), {}
    yield "mistral, a window shorter than the text", dict(model_type="mistral", sliding_window=9), {}
    yield "mistral, window null", dict(model_type="mistral", sliding_window=None), {}
    yield "mistral, window left out", dict(model_type="mistral", max_position_embeddings=8192), {}
    for family in ["qwen2", "qwen3"]:
        window = dict(model_type=family, use_sliding_window=True, sliding_window=9)
        yield f"{family}, a window in every layer", {**window, "max_window_layers": 0}, {}
        yield f"{family}, a window in the last layers", {**window, "max_window_layers": 1}, {}
        yield f"{family}, a window in no layer", {**window, "max_window_layers": 3}, {}
        yield f"{family}, window layers left out", window, {}
        yield f"{family}, a window in the middle", {**window, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}, {}
        yield f"{family}, a window that is not used", dict(model_type=family, use_sliding_window=False, sliding_window=9), {}
        yield (
            f"{family}, width of the window left out",
            dict(model_type=family, use_sliding_window=True, max_window_layers=0, max_position_embeddings=8192),
            {},
        )


def model_of(folder: Path, settings: dict):
    """A toy by config.json, its weights by their names."""
    (folder / "config.json").write_text(json.dumps(settings))
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(toys.values(name, tuple(parameter.shape))))
    return model


def logits_of(model, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


def greedy_of(logits, ids: list[int]) -> list[int]:
    """`logits` of a text to the tokens that follow it."""
    found = []
    for _ in range(GREEDY):
        last = logits(ids + found)[-1]
        first, second = np.sort(last)[::-1][:2]
        if first - second < CLEAR * np.abs(last).max():
            break
        found.append(int(last.argmax()))
    return found


def limit_of(config) -> int:
    """Tokens until a layer first does not see all."""
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None) if config.model_type != "llama" and "sliding_attention" in types else None
    return min(config.max_position_embeddings, window or config.max_position_embeddings)


def make() -> None:
    listed, tensors = [], {}
    for name, changes, way in cases():
        settings = {key: value for key, value in {**COMMON, **changes}.items() if value is not ABSENT}
        with tempfile.TemporaryDirectory() as given, tempfile.TemporaryDirectory() as written:
            model = model_of(Path(given), settings)
            saving = model.model if way.get("base") else model
            saving.save_pretrained(written, max_shard_size=way.get("shard", "1GB"))
            files = {}
            for file in sorted(Path(written).glob("*.safetensors")):
                with safe_open(file, "np") as opened:
                    files[file.name] = {key: list(opened.get_slice(key).get_shape()) for key in opened.keys()}
            if way.get("saved"):
                settings = json.loads((Path(written) / "config.json").read_text())
                del settings["transformers_version"]
            ids = toys.ids(TOKENS, model.config.vocab_size)
            logits = logits_of(model, ids)
            limit = limit_of(model.config)
            case = {"name": name, "config": settings, "files": files, "contextLength": limit}
            if limit > TOKENS + GREEDY:
                case["greedy"] = greedy_of(lambda text: logits_of(model, text), ids)
        listed.append(case)
        tensors[name] = logits
        print(f"{name:50} {np.abs(logits).max():.2f} {len(case.get('greedy', []))}")
    write(OUT / "transformers", {"tokens": TOKENS, "by": "transformers 4.56, float32, eager attention", "cases": listed}, tensors)


def write(path: Path, described: dict, tensors: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in described.pop("cases"))
    head = json.dumps(described)[:-1]
    path.with_suffix(".json").write_text(f'{head}, "cases": [\n{lines}\n]}}\n')
    save_file(tensors, path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors").chmod(0o644)


def compare(folder: Path) -> None:
    """A folder that kvloom wrote, run by transformers, against the logits of kvloom."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    given = json.loads((folder / "kvloom-logits.json").read_text())
    logits, expected = logits_of(model, given["ids"]).ravel(), np.array(given["logits"])
    print(f"{folder.name}: {np.abs(logits - expected).max() / np.abs(expected).max():.2e}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, nargs="*", help="models that kvloom wrote")
    given = arguments.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if given.folder:
        for each in given.folder:
            compare(each)
    else:
        make()
