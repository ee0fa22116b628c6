"""A Llama decoder in plain PyTorch whose parameter names are those of Hugging Face's LlamaForCausalLM."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab_size: int = 260
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 32
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


def rope_table(config: Config):
    inverse = config.rope_theta ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)
    angles = torch.outer(torch.arange(config.max_position_embeddings).float(), inverse)
    angles = torch.cat([angles, angles], -1)  # [positions, head_dim]
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def causal_attention(q, k, v):
    """Causal grouped attention in blocks of queries, each against the keys up to its end.

    q [batch, heads, tokens, dim]; k, v [batch, kvHeads, tokens, dim]. Plain matrix products: on a
    CPU with bf16 tiles their backward pass is several times as fast as the fused kernel's.
    """
    b, h, t, d = q.shape
    g, n = k.shape[1], min(8, max(1, t // 128))
    out = []
    for i in range(n):
        first, end = i * t // n, (i + 1) * t // n
        m = end - first
        rows = q[:, :, first:end].reshape(b * g, h // g * m, d)
        scores = rows @ k[:, :, :end].reshape(b * g, end, d).transpose(1, 2)
        scores = scores.view(b * g, h // g, m, end).float() * d ** -0.5
        hidden = torch.ones(m, end, dtype=torch.bool, device=q.device).triu(first + 1)
        p = scores.masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype)
        y = p.view(b * g, h // g * m, end) @ v[:, :, :end].reshape(b * g, end, d)
        out.append(y.view(b, h, m, d))
    return torch.cat(out, 2)


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)

    def forward(self, x, cos, sin, past=None, mask=None):
        """x [batch, tokens, hidden]; past (k, v), each [batch, kvHeads, held, dim], k after RoPE."""
        c, (b, t, _) = self.c, x.shape
        q = rotate(self.q_proj(x).view(b, t, -1, c.head_dim).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(b, t, -1, c.head_dim).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, -1, c.head_dim).transpose(1, 2)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        if past is None:
            y = causal_attention(q.to(v.dtype), k.to(v.dtype), v)
            return self.o_proj(y.transpose(1, 2).reshape(b, t, -1)), (k, v)
        groups = c.num_attention_heads // c.num_key_value_heads
        wide = [y[:, :, None].expand(-1, -1, groups, -1, -1).reshape(b, -1, y.shape[2], c.head_dim) for y in (k, v)]
        y = F.scaled_dot_product_attention(q.to(v.dtype), wide[0].to(v.dtype), wide[1], attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1)), (k, v)


class MLP(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(self, x, cos, sin, past=None, mask=None):
        y, kv = self.self_attn(self.input_layernorm(x), cos, sin, past, mask)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), kv


class Decoder(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList([Layer(c) for _ in range(c.num_hidden_layers)])
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)


class Llama(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.model = Decoder(c)
        cos, sin = rope_table(c)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.03 / (2 * c.num_hidden_layers) ** 0.5 if out else 0.03)

    def forward(self, ids, past=None, start=0):
        """ids [batch, tokens] at positions start…; past one (k, v) a layer. Returns (logits, kv)."""
        t = ids.shape[1]
        cos, sin = self.cos[start:start + t], self.sin[start:start + t]
        mask = None
        if past is not None:
            held = past[0][0].shape[2]
            mask = torch.ones(t, held + t, dtype=torch.bool, device=ids.device).tril(held)
        x, kv = self.model.embed_tokens(ids), []
        for i, layer in enumerate(self.model.layers):
            x, pair = layer(x, cos, sin, None if past is None else past[i], mask)
            kv.append(pair)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight), kv
