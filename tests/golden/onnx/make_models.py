#!/usr/bin/python3
"""Writes small models with PyTorch's exporter and, in answers.json, what PyTorch computes with them.

Read by onnx_import_test.cpp. Debian: apt install python3-torch. Run in this directory.
"""
import json

import torch
from torch import nn

torch.manual_seed(7)
answers = {"torch": torch.__version__}


class Mlp(nn.Module):
    """A classifier of images: flattened by the batch's own size, batch normalisation, dropout."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(12, 10)
        self.norm = nn.BatchNorm1d(10)
        self.drop = nn.Dropout(0.3)
        self.fc2 = nn.Linear(10, 4)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        x = torch.relu(self.norm(self.fc1(x)))
        return torch.softmax(self.fc2(self.drop(x)), dim=-1)


class Block(nn.Module):
    """What stands in a transformer's block beside attention, in both GELUs, and a gate."""

    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(8, eps=1e-3)
        self.up = nn.Linear(8, 12)
        self.act = nn.GELU()
        self.down = nn.Linear(12, 8, bias=False)
        self.norm2 = nn.LayerNorm(8)
        self.gate = nn.Linear(8, 6)
        self.value = nn.Linear(8, 6)
        self.back = nn.Linear(6, 8)
        self.act2 = nn.GELU(approximate="tanh")
        self.head = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x):
        x = x + self.down(self.act(self.up(self.norm1(x))))
        y = self.norm2(x)
        x = x + self.back(nn.functional.silu(self.gate(y)) * self.value(y))
        return self.head(self.act2(x))


class Attention(nn.Module):
    """Causal self-attention of two heads, from one product for query, key and value."""

    def __init__(self):
        super().__init__()
        self.all = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        batch, tokens, width = x.shape
        parts = self.all(x).split(width, dim=2)
        query, key, value = [part.view(batch, tokens, 2, 4).transpose(1, 2) for part in parts]
        scores = query @ key.transpose(-2, -1) / 2
        scores = scores.masked_fill(torch.tril(torch.ones(tokens, tokens)) == 0, float("-inf"))
        gathered = (scores.softmax(-1) @ value).transpose(1, 2).contiguous()
        return self.out(gathered.view(batch, tokens, width)) + x


def randomize(model):
    """Gives what starts as 0 and 1 other values."""
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm1d)):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, 0, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)


def export(name, model, shape, opset, **options):
    randomize(model)
    model.eval()
    sample = torch.randn(*shape)
    torch.onnx.export(model, sample, f"{name}.onnx", opset_version=opset, input_names=["input"],
                      output_names=["output"], **options)
    x = torch.randn(5, *shape[1:]).mul(1000).round().div(1000)
    y = model(x)
    answers[name] = {"input": rows(x, model), "output": rows(y, model)}


def rows(tensor, model):
    tensor = tensor.flatten(1) if isinstance(model, Mlp) else tensor.flatten(0, 1)
    return [[float(f"{value:.9g}") for value in row] for row in tensor.tolist()]


free = {"dynamic_axes": {"input": {0: "batch"}}}
both = {"dynamic_axes": {"input": {0: "batch", 1: "tokens"}}}
export("mlp", Mlp(), (2, 1, 3, 4), 13, **free)
export("block_14", Block(), (2, 3, 8), 14, **both)
export("block_17", Block(), (2, 3, 8), 17, **both)
export("attention", Attention(), (2, 3, 8), 17, **both)
with open("answers.json", "w") as file:
    file.write(json.dumps(answers, separators=(",", ":")) + "\n")
