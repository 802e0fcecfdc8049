#!/usr/bin/env python3
"""The paper's algorithm in PyTorch beside ours, in turns, and its cost of rebuilding LLaMA-2 70B's factors.

NOLA (Koohpayegani et al., ICLR 2024, section 3) as its authors run it: the bases of a factor are drawn anew from
the seed in every pass, uniform(-1, 1) / sqrt(k), as one tensor [k, ...], and contracted with the coefficients; the
backward pass draws them again. A has a frozen Kaiming offset, the coefficients start at zero.

Needs python3-torch (Debian). Ours is the program step_benchmark, asked for one step at a time.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time

RANK, BASES = 8, 1000


def check_products(torch):
    """OpenBLAS has kernels that compute wrong results on processors newer than it: compare with float64."""
    torch.manual_seed(1)
    for rows, depth, columns in ((64, 512, 512), (512, 768, 768), (8, 4096, 256)):
        a, b = torch.randn(rows, depth), torch.randn(depth, columns)
        error = ((a @ b).double() - a.double() @ b.double()).abs().max().item()
        if not error < 1e-3 * math.sqrt(depth):
            return error
    return None


def require_right_products(torch, program):
    error = check_products(torch)
    if error is not None:
        sys.exit(f"{program}: PyTorch's matrix product is wrong by {error:.3g} on this processor; an older OpenBLAS "
                 "may need OPENBLAS_CORETYPE=Haswell (or SkylakeX) in the environment")


def make_steps(torch, tokens, width):
    class Combine(torch.autograd.Function):
        """sum_i coefficients_i * basis_i, without keeping the bases."""

        @staticmethod
        def bases(seed, count, shape):
            torch.manual_seed(seed)
            return torch.empty((count,) + shape).uniform_(-1, 1).div_(math.sqrt(count))

        @staticmethod
        def forward(context, coefficients, seed, shape):
            context.arguments = seed, coefficients.numel(), shape
            return torch.tensordot(coefficients, Combine.bases(seed, coefficients.numel(), shape), 1)

        @staticmethod
        def backward(context, gradient):
            return torch.tensordot(Combine.bases(*context.arguments), gradient, 2), None, None

    torch.manual_seed(0)
    weight = torch.randn(width, width) / math.sqrt(width)
    offset = (torch.rand(width, RANK) * 2 - 1) / math.sqrt(width)
    x = torch.randn(tokens, width, requires_grad=True)
    gradient = torch.randn(tokens, width)
    alpha = torch.zeros(BASES, requires_grad=True)
    beta = torch.zeros(BASES, requires_grad=True)
    a = offset.clone().requires_grad_()
    b = torch.zeros(RANK, width, requires_grad=True)

    def step(factors, parameters):
        left, right = factors()
        (x @ weight + (x @ left) @ right).backward(gradient)
        with torch.no_grad():
            for parameter in parameters:
                parameter -= 1e-6 * parameter.grad
                parameter.grad = None
        x.grad = None

    def nola():
        step(lambda: (offset + Combine.apply(alpha, 1, (width, RANK)), Combine.apply(beta, 2, (RANK, width))),
             (alpha, beta))

    def lora():
        step(lambda: (a, b), (a, b))

    return {"paper": nola, "torch lora": lora}


class Ours:
    """step_benchmark in a process of its own, which makes a step when asked and waits meanwhile."""

    def __init__(self, program, distribution, tokens, width):
        self.process = subprocess.Popen(
            [program, "--serve", distribution, "--tokens", str(tokens), "--width", str(width)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.step()

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(torch, program, tokens, width, bar, threads, seconds, rows):
    cases = {name: (lambda run=run: timed(run)) for name, run in make_steps(torch, tokens, width).items()}
    ours = {name: Ours(program, name, tokens, width) for name in ("hadamard", "rademacher")}
    cases.update({"ours, " + name: process.step for name, process in ours.items()})
    times = {name: [] for name in cases}
    cases["paper"]()
    end = time.perf_counter() + seconds
    while len(times["paper"]) < 3 or time.perf_counter() < end:
        for name, run in cases.items():
            run()  # the caches hold another case's data now
            times[name].append(run())
    for process in ours.values():
        process.close()
    group = f"paper in PyTorch, {tokens} tokens, {width}x{width}, {threads} thread" + ("s" if threads > 1 else "")
    for name, values in times.items():
        rows.append({"group": group, "name": name, "seconds": statistics.median(values), "fastest": min(values)})
    for name in ours:
        ratio = statistics.median(p / o for p, o in zip(times["paper"], times["ours, " + name]))
        row = {"group": group, "name": f"paper / ours, {name}", "value": ratio}
        if bar and name == "hadamard":
            row.update({"at_least": bar, "holds": int(ratio >= bar)})
        rows.append(row)


def rebuild(torch, rows, elements, length=8192, rank=16, bases=512):
    """One factor by the paper's algorithm, scaled to all of LLaMA-2 70B's."""
    coefficients = torch.randn(bases)

    def run():
        torch.manual_seed(1)
        drawn = torch.empty(bases, length, rank).uniform_(-1, 1).div_(math.sqrt(bases))
        torch.tensordot(coefficients, drawn, 1)

    run()
    sample = statistics.median(timed(run) for _ in range(3))
    rows.append({"group": "LLaMA-2 70B, rank 16, 512 bases", "name": "paper's algorithm in PyTorch, scaled",
                 "seconds": sample * elements / (length * rank), "sample_seconds": sample})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="path of step_benchmark")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; ours uses OMP_NUM_THREADS")
    parser.add_argument("--json", help="file to write the rows to")
    parser.add_argument("--seconds", type=float, default=40, help="for each size")
    parser.add_argument("--quick", action="store_true", help="sizes that run in a moment")
    arguments = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)  # torch.set_num_threads does not reach its threads
    try:
        import torch
    except ImportError:
        print("paper_torch.py: skipped, PyTorch is missing (Debian: apt install python3-torch)")
        return
    require_right_products(torch, "paper_torch.py")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    torch.set_num_threads(arguments.threads)
    rows = []
    sizes = ((512, 4096, 10), (64, 4096, 40), (512, 768, None))
    if arguments.quick:
        sizes, arguments.seconds = ((8, 64, None),), 0
    for tokens, width, bar in sizes:
        compare(torch, arguments.program, tokens, width, bar, arguments.threads, arguments.seconds, rows)
    if arguments.quick:
        rebuild(torch, rows, 207_093_760, 64, 4, 16)
    else:
        rebuild(torch, rows, 207_093_760)
    for row in rows:
        print("  ".join(f"{key} {value:.4g}" if isinstance(value, (int, float)) else f"{value:<44}"
                        for key, value in row.items()), flush=True)
    rows.append({"group": "machine", "name": "PyTorch",
                 "text": f"{torch.__version__}, OPENBLAS_CORETYPE={os.environ.get('OPENBLAS_CORETYPE', 'unset')}"})
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
