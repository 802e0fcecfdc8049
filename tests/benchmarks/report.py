#!/usr/bin/env python3
"""Turns the JSON rows of the benchmarks into one Markdown table and one JSON file."""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess


def machine():
    cpu, flags = platform.machine(), ""
    try:
        for line in open("/proc/cpuinfo", encoding="utf-8"):
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
            if line.startswith("flags"):
                flags = line.split()
    except OSError:
        pass
    sets = [name for name in ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl") if name in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "instruction_sets": sets,
            "load_average": os.getloadavg()[0], "system": platform.platform()}


def duration(seconds):
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"


def table(header, rows):
    if not rows:
        return
    print("\n| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def pivot(rows, title, columns, cell):
    """One table line a name, one column a group."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    cells = {(row["name"], row["group"]): cell(row) for row in rows}
    table([title] + [columns(group) for group in groups],
          [[name] + [cells.get((name, group), "") for group in groups] for name in names])


def plain_o2_bars(rows):
    """The same kernels in a program compiled with plain -O2 take at most a tenth longer: the median over the turns that
    the two programs take, since a machine has slower minutes."""
    times = {}
    for row in rows:
        program, _, turn = row["source"].partition("-again-")
        if program in ("kernels", "kernels-o2") and "seconds" in row:
            times.setdefault((row["group"], row["name"]), {})[program, turn] = row["seconds"]
    for (group, name), runs in times.items():
        ratios = [runs["kernels-o2", turn] / seconds for (program, turn), seconds in runs.items()
                  if program == "kernels" and ("kernels-o2", turn) in runs]
        is_bar = name in ("rademacher avx512", "hadamard avx512") and " k = 1024" in group
        if is_bar and not group.startswith("factor") and ratios:
            ratio = statistics.median(ratios)
            yield {"source": "kernels-o2", "group": group, "name": name + ", plain -O2 / native",
                   "value": ratio, "at_most": 1.1, "holds": int(ratio <= 1.1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", help="of the JSON files")
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--json", help="file for everything")
    arguments = parser.parse_args()
    rows = []
    for path in sorted(pathlib.Path(arguments.directory).glob("*.json")):
        if arguments.json and path.resolve() == pathlib.Path(arguments.json).resolve():
            continue
        rows += [dict(row, source=path.stem) for row in json.loads(path.read_text(encoding="utf-8"))]
    rows += list(plain_o2_bars(rows))
    rows = [row for row in rows if "-again-" not in row["source"]]
    facts = machine()
    try:
        version = subprocess.run([arguments.compiler, "--version"], capture_output=True, text=True, check=True)
        facts["compiler"] = version.stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError):
        facts["compiler"] = arguments.compiler
    facts["flags"] = "-O3 -march=native; where said, plain -O2"
    facts["threads"] = "1; where said, 2"
    for row in rows:
        if row["group"] == "machine":
            facts[row["name"]] = row["text"]

    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {', '.join(facts['instruction_sets'])}; "
          f"{facts['compiler']}, {facts['flags']}; threads {facts['threads']}; float32; medians of interleaved rounds; "
          f"load average at the end {facts['load_average']:.1f}."
          + (f" PyTorch {facts['PyTorch']}." if "PyTorch" in facts else ""))

    bars = [row for row in rows if "holds" in row and (not row["source"].endswith("-o2") or "plain" in row["name"])]
    table(["what", "measured", "wanted", "holds"],
          [[f"{row['group']}: {row['name']}", f"{row['value']:.3g}",
            f"<= {row['at_most']:g}" if "at_most" in row else f">= {row['at_least']:g}",
            "yes" if row["holds"] else "**no**"] for row in bars])
    timed = [row for row in rows if "seconds" in row]
    for source, what in (("kernels", ""), ("kernels-o2", ", plain -O2")):
        pivot([row for row in timed if row["source"] == source and "elements_per_second" in row],
              f"basis elements a second{what}", lambda group: group,
              lambda row: f"{row['elements_per_second'] / 1e9:.3g} G")
        pivot([row for row in timed if row["source"] == source and "elements_per_second" not in row],
              f"a hadamard factor{what}", lambda group: group.removeprefix("factor "), lambda row: duration(row["seconds"]))
    for source, what in (("step", ""), ("step-o2", ", plain -O2")):
        pivot([row for row in timed if row["source"] == source], f"training step{what}",
              lambda group: group.removeprefix("step, "), lambda row: duration(row["seconds"]))
    growth = [row for row in rows if row["group"].startswith("growth") and row["source"] == "step"]
    table(["growth with", "tokens", "width", "rank", "bases", "LoRA", "NOLA hadamard", "NOLA rademacher"],
          [[row["group"].removeprefix("growth with ")] + [f"{row[key]:.0f}" for key in ("tokens", "width", "rank", "bases")]
           + [duration(row[key]) for key in ("lora", "hadamard", "rademacher")] for row in growth])
    memory = [row for row in rows if "bytes" in row]
    if memory:
        table([memory[0]["group"] + ": peak above the base layer", "MB", "a stored basis"],
              [[row["name"], f"{row['bytes'] / 1e6:.2f}",
                f"{row['stored_basis_bytes'] / 1e6:.0f} MB" if "stored_basis_bytes" in row else ""] for row in memory])
    table(["LLaMA-2 70B, rank 16, 512 bases a factor", "time"],
          [[row["name"], duration(row["seconds"])] for row in timed if row["group"].startswith("LLaMA")
           and row["source"] != "torch-2"])
    pivot([row for row in timed if row["source"].startswith("torch") and row["group"].startswith("paper")],
          "step beside PyTorch", lambda group: group.removeprefix("paper in PyTorch, "),
          lambda row: duration(row["seconds"]))
    for title, is_in in (("GPT-2 124M, rank 8 on query and value", False), ("GPT-2 124M beside PyTorch", True)):
        pivot([row for row in timed if row["group"].startswith("GPT-2") and ("PyTorch" in row["group"]) == is_in], title,
              lambda group: group.removeprefix("GPT-2 in PyTorch, ").removeprefix("GPT-2, "),
              lambda row: duration(row["seconds"]))
    table(["GPT-2 124M", "peak memory of a step above the weights"],
          [[row["group"].removeprefix("GPT-2, "), f"{row['peak_bytes'] / 1e6:.0f} MB"] for row in rows
           if "peak_bytes" in row])
    table(["GPT-2 124M by format", "weights at rest", "tokens a second", "reading the weights, of a token's time",
           "read a second", "token / f32's", "step / f32's", "memory of a step"],
          [[f"{row['name']}, {row['group'].removeprefix('GPT-2, ').removesuffix(', by format')}",
            f"{row['rest_bytes'] / 1e6:.0f} MB", f"{row['tokens_per_second']:.1f}", f"{row['reading_over_token']:.2f}",
            f"{row['read_bytes_per_second'] / 1e9:.1f} GB", f"{row['token_over_f32']:.2f}", f"{row['step_over_f32']:.2f}",
            f"{row['step_bytes'] / 1e6:.0f} MB"] for row in rows if "rest_bytes" in row])
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({"machine": facts, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
