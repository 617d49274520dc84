"""Updates of an OLMo 2 in PyTorch eager mode, as benches/against-pytorch measures them beside flow's.

Prints one line of JSON: median seconds of an update, and the largest memory of the process in MB.
"""

import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=256)
parser.add_argument("--layers", type=int, default=8)
parser.add_argument("--heads", type=int, default=8)
parser.add_argument("--vocab", type=int, default=8192)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--length", type=int, default=256)
parser.add_argument("--updates", type=int, default=8)
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)
torch.manual_seed(1)
D, HEADS, LENGTH, BATCH, EPS = arguments.width, arguments.heads, arguments.length, arguments.batch, 1e-6
HEAD = D // HEADS


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x):
        return F.rms_norm(x, (D,), self.weight, EPS)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(D, D, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(D, 3 * D, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * D, D, bias=False)
        self.q_norm, self.k_norm, self.attention_norm, self.ffn_norm = (Norm() for _ in range(4))

    def forward(self, x, cos, sin):
        def heads(y):
            return y.view(BATCH, LENGTH, HEADS, HEAD).transpose(1, 2)

        def rotate(y):
            a, b = y.chunk(2, -1)
            return y * cos + torch.cat([-b, a], -1) * sin

        q, k = rotate(heads(self.q_norm(self.q(x)))), rotate(heads(self.k_norm(self.k(x))))
        a = F.scaled_dot_product_attention(q, k, heads(self.v(x)), is_causal=True)
        h = x + self.attention_norm(self.o(a.transpose(1, 2).reshape(BATCH, LENGTH, D)))
        return h + self.ffn_norm(self.down(F.silu(self.gate(h)) * self.up(h)))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(arguments.vocab, D)
        self.blocks = nn.ModuleList(Block() for _ in range(arguments.layers))
        self.norm = Norm()
        self.head = nn.Linear(D, arguments.vocab, bias=False)
        angles = torch.outer(torch.arange(LENGTH), 500_000.0 ** (-torch.arange(0, HEAD, 2) / HEAD))
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, -1))
        self.register_buffer("sin", torch.cat([angles.sin()] * 2, -1))
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.trunc_normal_(p, std=0.02, a=-0.06, b=0.06)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


model = Model()
decayed = [p for name, p in model.named_parameters() if "embedding" not in name]
groups = [{"params": decayed}, {"params": model.embedding.parameters(), "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
seconds = []
for step in range(arguments.updates + 2):
    tokens = torch.randint(arguments.vocab, (BATCH, LENGTH + 1))
    began = time.perf_counter()
    logits = model(tokens[:, :-1]).flatten(0, 1)
    loss = F.cross_entropy(logits, tokens[:, 1:].flatten()) + 1e-5 * logits.logsumexp(-1).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss.item()
    seconds.append(time.perf_counter() - began)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"torch": torch.__version__, "seconds": statistics.median(seconds[2:]), "memory_mb": round(memory)}))
