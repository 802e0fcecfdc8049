#!/usr/bin/env python3
"""Recomputes a network's output in PyTorch from exported PEFT directories and compares it with nola's.

    check_peft.py DIRECTORY       written by the program write_files
Exits with 77 without PyTorch.
"""
import json
import sys
from pathlib import Path

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("skipped: no PyTorch (Debian: apt install python3-torch)")
    sys.exit(77)

sys.path.insert(0, str(Path(__file__).parent))
from check_files import numbers, read  # noqa: E402


def tensors(path):
    return {name: torch.tensor(numbers(t), dtype=torch.float64).reshape(t[1]) for name, t in read(path)[1].items()}


def main(directory):
    weights, case = tensors(directory / "weights.safetensors"), tensors(directory / "outputs.safetensors")
    for kind, tolerance in (("f32", 1e-6), ("f16", 2e-3)):
        factors = tensors(directory / f"peft_{kind}" / "adapter_model.safetensors")
        config = json.loads((directory / f"peft_{kind}" / "adapter_config.json").read_text())
        assert config["peft_type"] == "LORA" and config["bias"] == "none"

        def layer(name, x):
            y = F.linear(x, weights[name + ".weight"].T, weights.get(name + ".bias"))
            if name not in config["target_modules"]:
                return y
            a = factors[f"base_model.model.{name}.lora_A.weight"]
            b = factors[f"base_model.model.{name}.lora_B.weight"]
            assert a.shape[0] == b.shape[1] == config["r"]
            return y + config["lora_alpha"] / config["r"] * F.linear(F.linear(x, a), b)

        y = layer("head", torch.tanh(layer("inner.second", F.gelu(layer("first", case["input"])))))
        error = ((y - case["output"]).abs().max() / case["output"].abs().max()).item()
        effect = ((y - case["base_output"]).abs().max() / case["output"].abs().max()).item()
        print(f"{kind}: relative error {error:.2e}; the adapters change the output by {effect:.2f}")
        assert error <= tolerance and effect > 0.1, "the PEFT directory does not give the network's output"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
