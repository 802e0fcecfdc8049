#!/usr/bin/python3
"""Writes transformer_block.json, read by transformer_block_test.cpp: torch.nn.TransformerEncoderLayer(norm_first=True) under a causal mask, forward
and gradients, in double. Debian: apt install python3-torch. Run in this directory."""
import json

import torch

torch.manual_seed(1)
torch.set_default_dtype(torch.float64)
width, heads, hidden, batch, tokens = 8, 2, 12, 2, 5

layer = torch.nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.0, activation="gelu", batch_first=True,
                                         norm_first=True)
with torch.no_grad():  # short decimals, so that the file holds exactly what was computed with
    for name, parameter in layer.named_parameters():
        base = 1.0 if name.startswith("norm") and name.endswith("weight") else 0.0
        parameter.copy_(torch.round((base + 0.4 * torch.randn_like(parameter)) * 1000) / 1000)
x = (torch.round(torch.randn(batch, tokens, width) * 1000) / 1000).requires_grad_()
output_gradient = torch.round(torch.randn(batch, tokens, width) * 1000) / 1000

output = layer(x, src_mask=torch.triu(torch.ones(tokens, tokens, dtype=torch.bool), diagonal=1))
output.backward(output_gradient)


def rows(tensor):
    tensor = tensor.detach().reshape(-1, tensor.shape[-1])
    return [[float(f"{value:.10g}") for value in row] for row in tensor.tolist()]


golden = {
    "torch": torch.__version__, "heads": heads, "tokens": tokens,
    "input": rows(x), "output": rows(output),
    "output_gradient": rows(output_gradient), "input_gradient": rows(x.grad),
    "parameters": {name: rows(p) for name, p in layer.named_parameters()},
    "parameter_gradients": {name: rows(p.grad) for name, p in layer.named_parameters()},
}
with open("transformer_block.json", "w") as file:
    file.write("{\n" + ",\n".join(f'"{key}": {json.dumps(value, separators=(",", ":"))}'
                                   for key, value in golden.items()) + "\n}\n")
