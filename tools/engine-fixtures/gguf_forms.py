"""Makes packages/engine/fixtures/families/llama-cpp.json and .safetensors: toys as GGUF files, their keys in every form, run by llama.cpp
in float32. Same inputs, same files. llama.cpp reads rope.scaling.yarn_* for some architectures only (src/models/grok.cpp,
mistral3.cpp); what they mean is asked of it by the options of a context of the same names, which take their place.

    python -m venv VENV && VENV/bin/pip install -r tools/engine-fixtures/requirements-families.txt
    VENV/bin/python tools/engine-fixtures/gguf_forms.py
"""

import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

import toys
from families import OUT, TOKENS, greedy_of, write

HIDDEN, INNER, HEADS, KV_HEADS, DIM, LAYERS, VOCAB, CONTEXT = 64, 80, 4, 2, 16, 2, 96, 512
SIZES = {
    "context_length": CONTEXT, "embedding_length": HIDDEN, "block_count": LAYERS, "feed_forward_length": INNER, "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS, "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1000.0, "vocab_size": VOCAB,
}
FACTORS = [1.0, 1.0, 1.5, 2.0, 3.0, 6.0, 8.0, 8.0]
QKV = ["attn_q.bias", "attn_k.bias", "attn_v.bias"]
MLP = ["ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"]


def cases():
    """Name, architecture, keys over SIZES (None takes one away), and what else."""
    for name in ["llama", "qwen2", "qwen3"]:
        yield name, name, {}, {}
        yield f"{name}, tied", name, {}, dict(tied=True)
        yield f"{name}, linear", name, {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, {}
        yield f"{name}, yarn", name, {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 256}, {}
        yield f"{name}, counts by layer", name, {"attention.head_count_kv": [2, 2], "attention.head_count": [4, 4], "feed_forward_length": [80, 80]}, {}
    yield "llama, biases", "llama", {}, dict(biases=[*QKV, "attn_output.bias", *MLP])
    yield "llama, biases of queries, keys and values", "llama", {}, dict(biases=QKV)
    yield "llama, bias of the output", "llama", {}, dict(biases=["attn_output.bias"])
    yield "llama, biases of the MLP", "llama", {}, dict(biases=MLP)
    yield "qwen3, biases", "qwen3", {}, dict(biases=QKV)
    yield "llama, no base", "llama", {"rope.freq_base": None}, {}
    yield "llama, the width of the rotation", "llama", {"rope.dimension_count": 16}, {}
    yield "llama, type none beside a factor", "llama", {"rope.scaling.type": "none", "rope.scaling.factor": 2.0}, {}
    yield "llama, a factor without a type", "llama", {"rope.scaling.factor": 2.0}, {}
    yield "qwen2, a factor without a type", "qwen2", {"rope.scaling.factor": 2.0}, {}
    yield "llama, the old scale_linear", "llama", {"rope.scale_linear": 2.0}, {}
    yield "llama, the old scale_linear beside a factor", "llama", {"rope.scale_linear": 2.0, "rope.scaling.factor": 3.0}, {}
    yield "llama, a factor of 0", "llama", {"rope.scaling.factor": 0.0, "rope.scale_linear": 2.0}, {}
    yield "llama, type linear with scale_linear", "llama", {"rope.scaling.type": "linear", "rope.scale_linear": 4.0}, {}
    yield "llama, linear with attn_factor", "llama", {"rope.scaling.factor": 2.0, "rope.scaling.attn_factor": 1.3}, {}
    yield "llama, attn_factor alone", "llama", {"rope.scaling.attn_factor": 1.3}, {}
    yield "llama, rope_freqs", "llama", {}, dict(factors=True)
    yield "llama, rope_freqs with a factor", "llama", {"rope.scaling.factor": 2.0}, dict(factors=True)
    yield "llama, rope_freqs with attn_factor", "llama", {"rope.scaling.attn_factor": 1.3}, dict(factors=True)
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 256}
    yield "llama, yarn, attn_factor 1", "llama", {**yarn, "rope.scaling.attn_factor": 1.0}, {}
    yield "llama, yarn, attn_factor", "llama", {**yarn, "rope.scaling.attn_factor": 1.2}, {}
    yield "llama, yarn with rope_freqs", "llama", yarn, dict(factors=True)
    yield "llama, yarn, the context of the model", "llama", {**yarn, "rope.scaling.original_context_length": None}, {}
    yield "llama, yarn without a factor", "llama", {"rope.scaling.type": "yarn"}, {}
    for words, asked in {
        "no extrapolation": dict(yarn_ext_factor=0.0),
        "no extrapolation, attention factor": dict(yarn_ext_factor=0.0, yarn_attn_factor=1.3),
        "half extrapolation": dict(yarn_ext_factor=0.5),
        "attention factor": dict(yarn_attn_factor=1.3),
        "betas": dict(yarn_beta_fast=8.0, yarn_beta_slow=2.0),
    }.items():
        yield f"llama, yarn, {words}", "llama", yarn, dict(asked=asked)
    yield "llama, a factor with extrapolation", "llama", {"rope.scaling.factor": 2.0, "rope.scaling.original_context_length": 256}, dict(asked=dict(yarn_ext_factor=1.0))
    # What llama.cpp does not run.
    yield "llama, a part of the head", "llama", {"rope.dimension_count": 8}, dict(refused=True)
    yield "qwen2, rope_freqs", "qwen2", {}, dict(factors=True, refused=True)
    yield "qwen3, no norms", "qwen3", {}, dict(without=["attn_q_norm.weight", "attn_k_norm.weight"], refused=True)
    yield "qwen2, a norm of queries", "qwen2", {}, dict(more={"blk.0.attn_q_norm.weight": (DIM,)}, refused=True)
    yield "llama, a norm of queries", "llama", {}, dict(more={"blk.1.attn_q_norm.weight": (DIM,)}, refused=True)
    yield "mistral", "mistral", {}, dict(refused=True)


def shapes_of(architecture: str, way: dict) -> dict[str, tuple[int, ...]]:
    layer = {
        "attn_norm.weight": (HIDDEN,), "attn_q.weight": (HEADS * DIM, HIDDEN), "attn_k.weight": (KV_HEADS * DIM, HIDDEN),
        "attn_v.weight": (KV_HEADS * DIM, HIDDEN), "attn_output.weight": (HIDDEN, HEADS * DIM), "ffn_norm.weight": (HIDDEN,),
        "ffn_gate.weight": (INNER, HIDDEN), "ffn_up.weight": (INNER, HIDDEN), "ffn_down.weight": (HIDDEN, INNER),
    }
    if architecture == "qwen3":
        layer |= {"attn_q_norm.weight": (DIM,), "attn_k_norm.weight": (DIM,)}
    for bias in [*way.get("biases", []), *(QKV if architecture == "qwen2" else [])]:
        layer[bias] = layer[bias.replace("bias", "weight")][:1]
    for name in way.get("without", []):
        del layer[name]
    shapes = {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,)}
    if not way.get("tied"):
        shapes["output.weight"] = (VOCAB, HIDDEN)
    for number in range(LAYERS):
        shapes |= {f"blk.{number}.{name}": shape for name, shape in layer.items()}
    if way.get("factors"):
        shapes["rope_freqs.weight"] = (DIM // 2,)
    return shapes | way.get("more", {})


def write_gguf(path: Path, architecture: str, keys: dict, shapes: dict) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("tokenizer.ggml.model", "none")
    for key, value in keys.items():
        full = f"{architecture}.{key}"
        {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, list: writer.add_array}[type(value)](full, value)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.array(FACTORS, np.float32) if name == "rope_freqs.weight" else toys.values(name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Opened:
    """A model and a context of it; nothing is rounded to less than float32."""

    def __init__(self, path: Path, asked: dict):
        parameters = llama_cpp.llama_model_default_params()
        parameters.use_mmap = False
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise ValueError("refused")
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch, context.n_threads, context.n_threads_batch = 64, 64, 64, 1, 1
        context.type_k = context.type_v = 0  # float32
        context.flash_attn_type = 0
        for key, value in asked.items():
            setattr(context, key, value)
        self.context = llama_cpp.llama_init_from_model(self.model, context)

    def logits(self, ids: list[int]) -> np.ndarray:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for at, each in enumerate(ids):
            batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = each, at, 1, 1
            batch.seq_id[at][0] = 0
        assert llama_cpp.llama_decode(self.context, batch) == 0
        rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, at), (VOCAB,)).copy() for at in range(len(ids))]
        llama_cpp.llama_batch_free(batch)
        return np.stack(rows)


def make() -> None:
    llama_cpp.llama_backend_init()
    listed, tensors = [], {}
    for name, architecture, changes, way in cases():
        keys = {key: value for key, value in {**SIZES, **changes}.items() if value is not None}
        shapes = shapes_of(architecture, way)
        asked = way.get("asked", {})
        written = keys | {f"rope.scaling.{key}": value for key, value in asked.items()}
        case = {
            "name": name, "architecture": architecture, "keys": [[key, type(value).__name__, value] for key, value in written.items()],
            "tensors": {tensor: list(shape) for tensor, shape in shapes.items()},
        }
        if way.get("factors"):
            case["ropeFreqs"] = FACTORS
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "toy.gguf")
            write_gguf(path, architecture, keys, shapes)
            try:
                opened = Opened(path, asked)
            except ValueError:
                assert way.get("refused"), f"{name} is refused"
                listed.append(case | {"refused": True})
                continue
            assert not way.get("refused"), f"{name} is not refused"
            ids = toys.ids(TOKENS, VOCAB)
            tensors[name] = opened.logits(ids)
            listed.append(case | {"greedy": greedy_of(opened.logits, ids)})
        print(f"{name:50} {np.abs(tensors[name]).max():.2f} {len(listed[-1]['greedy'])}")
    write(OUT / "llama-cpp", {"tokens": TOKENS, "by": f"llama.cpp of llama-cpp-python {llama_cpp.__version__}, float32", "cases": listed}, tensors)


if __name__ == "__main__":
    make()
