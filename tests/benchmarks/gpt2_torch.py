#!/usr/bin/env python3
"""A training step and inference of GPT-2 124M with LoRA in PyTorch beside ours, in turns.

Rank 8 on query and value of every block, random weights, AdamW; attention as PyTorch 1.13 has it, a matrix of scores
under a mask. Needs python3-torch and libopenblas0-pthread (Debian): with the reference BLAS PyTorch is ten times
slower, which proves nothing. Ours is the program gpt2_benchmark, asked for one step at a time.
"""
import argparse
import json
import math
import os
import statistics
import subprocess

import paper_torch

WIDTH, HEADS, BLOCKS, VOCABULARY, POSITIONS, RANK = 768, 12, 12, 50257, 1024, 8


def make_model(torch):
    nn, functional = torch.nn, torch.nn.functional

    class LoRA(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
            self.a = nn.Parameter(torch.randn(WIDTH, RANK) / math.sqrt(WIDTH))
            self.b = nn.Parameter(torch.zeros(RANK, WIDTH))

        def forward(self, x):
            return self.base(x) + (x @ self.a) @ self.b

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.key, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.fc, self.projection = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
            self.requires_grad_(False)
            self.query, self.value = LoRA(), LoRA()

        def forward(self, x, mask):
            normed = self.attention_norm(x)
            q, k, v = (layer(normed).view(*x.shape[:2], HEADS, -1).transpose(1, 2)
                       for layer in (self.query, self.key, self.value))
            scores = (q @ k.transpose(2, 3)) / math.sqrt(WIDTH / HEADS) + mask
            gathered = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(x.shape)
            x = x + self.output(gathered)
            return x + self.projection(functional.gelu(self.fc(self.mlp_norm(x)), approximate="tanh"))

    class GPT2(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(POSITIONS, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)
            self.requires_grad_(False)
            self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

        def forward(self, tokens):
            length = tokens.shape[1]
            x = self.tokens(tokens) + self.positions(torch.arange(length))
            mask = torch.full((length, length), -math.inf).triu(1)
            for block in self.blocks:
                x = block(x, mask)
            return functional.linear(self.norm(x), self.tokens.weight)

    return GPT2()


def make_cases(torch, sequences, tokens):
    model = make_model(torch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    text = torch.randint(0, VOCABULARY, (sequences, tokens + 1))

    def step():
        logits = model(text[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.view(-1, VOCABULARY), text[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def infer():
        with torch.inference_mode():
            model(text[:, :-1])

    return {"step": step, "inference": infer}


class Ours:
    """gpt2_benchmark in a process of its own, which does what it is asked for and waits meanwhile."""

    def __init__(self, program, sequences, tokens, threads):
        self.process = subprocess.Popen(
            [program, "--serve", "1", "--sequences", str(sequences), "--tokens", str(tokens), "--threads", str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for what in ("lora", "lora", "infer"):
            self.run(what)

    def run(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(torch, program, sequences, tokens, threads, rounds, rows):
    cases = make_cases(torch, sequences, tokens)
    ours = Ours(program, sequences, tokens, threads)
    runs = {"step, PyTorch": lambda: paper_torch.timed(cases["step"]), "step, ours": lambda: ours.run("lora"),
            "inference, PyTorch": lambda: paper_torch.timed(cases["inference"]), "inference, ours": lambda: ours.run("infer")}
    times = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if turn > 0:  # the first is warm-up
                times[name].append(seconds)
    ours.close()
    group = f"GPT-2 in PyTorch, {sequences}x{tokens}, {threads} thread" + ("s" if threads > 1 else "")
    for name, values in times.items():
        rows.append({"group": group, "name": name, "seconds": statistics.median(values),
                     "tokens_per_second": sequences * tokens / statistics.median(values)})
    for what in ("step", "inference"):
        ratio = statistics.median(t / o for t, o in zip(times[what + ", PyTorch"], times[what + ", ours"]))
        row = {"group": group, "name": f"{what}, PyTorch / ours", "value": ratio}
        if tokens == 256 and threads == 2:
            row.update({"at_least": 2, "holds": int(ratio >= 2)})
        rows.append(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="path of gpt2_benchmark")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write the rows to")
    parser.add_argument("--quick", action="store_true", help="one round of few tokens")
    arguments = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)  # torch.set_num_threads does not reach its threads
    try:
        import torch
    except ImportError:
        print("gpt2_torch.py: skipped, PyTorch is missing (Debian: apt install python3-torch libopenblas0-pthread)")
        return
    torch.set_num_threads(arguments.threads)
    paper_torch.require_right_products(torch, "gpt2_torch.py")
    os.environ["OMP_WAIT_POLICY"] = "passive"  # a process that waits for its turn leaves the cores to the other
    rows = []
    if arguments.quick:
        compare(torch, arguments.program, 1, 8, arguments.threads, 1, rows)
    else:
        for sequences, tokens in ((2, 256), (8, 64)):
            compare(torch, arguments.program, sequences, tokens, arguments.threads, arguments.rounds, rows)
    for row in rows:
        print("  ".join(f"{key} {value:.4g}" if isinstance(value, (int, float)) else f"{value:<36}"
                        for key, value in row.items()), flush=True)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
