#!/usr/bin/python3
"""Writes gpt2.json: GPT-2's words, tokens and logits for a small model, computed from its published definition
apart from this library. Debian: apt install python3-torch python3-regex. Run in this directory."""
import json
import math

import regex
import torch

torch.set_default_dtype(torch.float64)

# Words and tokens
PATTERN = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")
MERGES = ["t h", "th e", "\u0120 the", "i n", "\u0120 in", "o n", "\u0120 t", "l l", "e r", "in g", "\u00c3 \u00a4",
          "\u010a \u010a", "a a", "aa aa"]
TEXTS = ["The thing in the inn, then", "they'll don't I'm we've you're he'd it's 'tis IT'S", "  two  spaces \n\n\nlines\t\tx ",
         " ", "\n", "a", "", "12345 x1 \u0663\u0664 \u00bd\u2167 3.14", "\u00e4\u00f6\u00fc \u00e4\u00e4 \u4e2d\u6587 \u3072\u3089 e\u0301",
         "\u00a0nbsp\u3000wide\u2009thin\u200bzero", "\U0001F600\U0001F469\u200d\U0001F467 !!! ...", "\r\n\x1c\x85", "aaaaaaaaa aaaaa aa"]


def byte_characters():
    bytes_ = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = {byte: chr(byte) for byte in bytes_}
    for count, byte in enumerate(byte for byte in range(256) if byte not in bytes_):
        characters[byte] = chr(256 + count)
    return characters


characters = byte_characters()
vocabulary = {characters[byte]: byte for byte in range(256)}
for merge in MERGES:
    vocabulary[merge.replace(" ", "")] = len(vocabulary)
vocabulary["<|endoftext|>"] = len(vocabulary)
ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(MERGES)}


def encode_word(word):
    pieces = [characters[byte] for byte in word.encode()]
    while True:
        pairs = [(ranks[pair], i) for i, pair in enumerate(zip(pieces, pieces[1:])) if pair in ranks]
        if not pairs:
            return [vocabulary[piece] for piece in pieces]
        place = min(pairs)[1]
        pieces[place:place + 2] = ["".join(pieces[place:place + 2])]


texts = []
for text in TEXTS:
    words = PATTERN.findall(text)
    texts.append({"text": text, "words": words, "tokens": [token for word in words for token in encode_word(word)]})

# Logits of a model whose weights follow a rule, so that no file of weights is needed
config = {"model_type": "gpt2", "vocab_size": len(vocabulary), "n_positions": 7, "n_embd": 8, "n_layer": 2,
          "n_head": 2, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
width, heads = config["n_embd"], config["n_head"]
shapes = {"wte.weight": [len(vocabulary), width], "wpe.weight": [config["n_positions"], width]}
for i in range(config["n_layer"]):
    shapes |= {f"h.{i}.ln_1.weight": [width], f"h.{i}.ln_1.bias": [width],
               f"h.{i}.attn.c_attn.weight": [width, 3 * width], f"h.{i}.attn.c_attn.bias": [3 * width],
               f"h.{i}.attn.c_proj.weight": [width, width], f"h.{i}.attn.c_proj.bias": [width],
               f"h.{i}.ln_2.weight": [width], f"h.{i}.ln_2.bias": [width],
               f"h.{i}.mlp.c_fc.weight": [width, 4 * width], f"h.{i}.mlp.c_fc.bias": [4 * width],
               f"h.{i}.mlp.c_proj.weight": [4 * width, width], f"h.{i}.mlp.c_proj.bias": [width]}
shapes |= {"ln_f.weight": [width], "ln_f.bias": [width]}


def rule(order, count):
    return 0.5 * torch.sin(0.7 * torch.arange(count) * (order + 1) + order)


weights = {name: rule(order, math.prod(shape)).reshape(shape) for order, (name, shape) in enumerate(shapes.items())}
functional = torch.nn.functional


def conv1d(x, name):
    return x @ weights[name + ".weight"] + weights[name + ".bias"]


def norm(x, name):
    return functional.layer_norm(x, [width], weights[name + ".weight"], weights[name + ".bias"], 1e-5)


def attention(x, block):
    q, k, v = (part.reshape(len(x), heads, -1).transpose(0, 1) for part in conv1d(x, f"{block}.attn.c_attn").split(width, 1))
    scores = q @ k.transpose(1, 2) / math.sqrt(width // heads)
    mask = torch.triu(torch.ones(len(x), len(x), dtype=torch.bool), 1)
    gathered = scores.masked_fill(mask, -math.inf).softmax(-1) @ v
    return conv1d(gathered.transpose(0, 1).reshape(len(x), width), f"{block}.attn.c_proj")


def gelu_new(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


tokens = [84, 258, 32, 11, 269, 0, 104]
x = weights["wte.weight"][tokens] + weights["wpe.weight"][:len(tokens)]
for i in range(config["n_layer"]):
    x = x + attention(norm(x, f"h.{i}.ln_1"), f"h.{i}")
    x = x + conv1d(gelu_new(conv1d(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")), f"h.{i}.mlp.c_proj")
logits = norm(x, "ln_f") @ weights["wte.weight"].T

golden = {"merges": MERGES, "texts": texts, "config": config, "names": list(shapes), "shapes": list(shapes.values()),
          "tokens": tokens, "logits_of_last": [float(f"{value:.9g}") for value in logits[-1].tolist()],
          "logit_sums": [float(f"{value:.9g}") for value in logits.abs().sum(1).tolist()]}
with open("gpt2.json", "w") as file:
    file.write("{\n" + ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in golden.items()) + "\n}\n")
