#!/usr/bin/env python3
"""Reads what the program write_files wrote, by the rules of the format alone: Python's standard library, none of nola.

    check_files.py DIRECTORY
Exits with 1 and the reason if a file breaks a rule of safetensors or says something other than
include/nola/io/specification.md makes it say.
"""
import json
import math
import struct
import sys
from pathlib import Path

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
         "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}
CODES = {"U8": "B", "I8": "b", "I16": "h", "U16": "H", "F16": "e", "I32": "i", "U32": "I", "F32": "f", "F64": "d",
         "I64": "q", "U64": "Q"}
MASK = 2**64 - 1


def no_duplicates(pairs):
    assert len(dict(pairs)) == len(pairs), "a key comes twice"
    return dict(pairs)


def read(path):
    """-> metadata, {name: (dtype, shape, bytes)}"""
    file = path.read_bytes()
    (length,) = struct.unpack_from("<Q", file)
    assert length <= 100_000_000 and 8 + length <= len(file), "header length"
    header, data = file[8:8 + length], file[8 + length:]
    assert header.startswith(b"{"), "header does not start with {"
    assert (8 + length) % 8 == 0, "data are not aligned to 8"
    entries = json.loads(header.decode("utf-8"), object_pairs_hook=no_duplicates)
    metadata = entries.pop("__metadata__", {})
    assert all(isinstance(text, str) for text in metadata.values()), "metadata that are no text"
    end = 0
    tensors = {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        assert set(entry) == {"dtype", "shape", "data_offsets"}, name
        first, last = entry["data_offsets"]
        assert first == end, f"{name}: a gap or an overlap"
        assert last - first == math.prod(entry["shape"]) * SIZES[entry["dtype"]], f"{name}: size"
        tensors[name] = (entry["dtype"], entry["shape"], data[first:last])
        end = last
    assert end == len(data), "bytes beyond the tensors"
    return metadata, tensors


def numbers(tensor):
    dtype, _, raw = tensor
    if dtype == "BF16":
        return [struct.unpack("<f", b"\0\0" + raw[i:i + 2])[0] for i in range(0, len(raw), 2)]
    return list(struct.unpack(f"<{len(raw) // SIZES[dtype]}{CODES[dtype]}", raw))


# Basis specification, sections "Words" and "Entries"
def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def word(seed, stream, factor, c, g, p):
    counter = (16 * (p // 64) + p % 16, g, stream, (factor << 24) + c)
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[(p % 64) // 16]


def single(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def uniform(w):
    q = (w - 2**32 if w >= 2**31 else w) >> 8
    return (2 * q + 1) * 2.0**-24


def entry(distribution, seed, stream, factor, c, i, p, k):
    if distribution == "uniform":
        return uniform(word(seed, stream, factor, c, i, p))
    if distribution == "normal":
        return float(bin(word(seed, stream, factor, c, i, p)).count("1") - 16)
    if distribution == "rademacher":
        return 1.0 - 2 * (word(seed, stream, factor, c, i // 32, p) >> (i % 32) & 1)
    size = 1 << (k - 1).bit_length()
    slot = (p + c * (size * 2654435769 >> 32 | 1)) % size
    sign = word(seed, stream, factor, c, 0xFFFFFFFF, 64 * (p // 2048) + p % 64) >> (p // 64 % 32) & 1
    return 1.0 - 2 * (sign ^ bin(slot & i).count("1") & 1)


# Adapter file specification, "Fingerprints"
def fingerprint(data):
    lanes = [1, 2, 3, 4]
    n = len(data)
    data += b"\0" * (-n % 32)
    for words in struct.iter_unpack("<4Q", data):
        for j, w in enumerate(words):
            lane = (lanes[j] ^ w) * 0x9E3779B97F4A7C15 & MASK
            lanes[j] = (lane ^ lane >> 29) * 0x9E3779B97F4A7C15 & MASK
    low, high = [x & 0xFFFFFFFF for x in lanes], [x >> 32 for x in lanes]
    key = (n & 0xFFFFFFFF, n >> 32)
    x = philox((low[0], high[0], low[1], high[1]), key)
    return philox((x[0] ^ low[2], x[1] ^ high[2], x[2] ^ low[3], x[3] ^ high[3]), key)


def digits(words):
    return "".join(f"{w:08x}" for w in words)


def integer(i):
    return struct.pack("<Q", i)


def text(t):
    raw = t.encode("utf-8")
    return integer(len(raw)) + raw


def content_checksum(metadata, tensors):
    data = integer(len(metadata) - 1)
    for key in sorted(metadata, key=str.encode):
        if key != "checksum":
            data += text(key) + text(metadata[key])
    data += integer(len(tensors))
    for name in sorted(tensors, key=str.encode):
        dtype, shape, raw = tensors[name]
        data += text(name) + text(dtype) + integer(len(shape)) + b"".join(map(integer, shape)) + raw
    return digits(fingerprint(data))


def weights_fingerprint(weights):
    """weights: {name: (dtype, shape, bytes)} as SaveWeights writes them"""
    data = b""
    for name in sorted(weights, key=str.encode):
        dtype, shape, _ = weights[name]
        rows, columns = shape if len(shape) == 2 else (1, shape[0])
        values = b"".join(struct.pack("<f", x) for x in numbers(weights[name]))
        data += text(name) + integer(rows) + integer(columns) + b"".join(map(integer, fingerprint(values)))
    return digits(fingerprint(data))


def basis_checksum(fields, factor):
    seed, stream, rank = int(fields["seed"]), int(fields["stream"]), int(fields["rank"])
    length = int(fields["shape"].split(",")[factor - 1])
    k = int(fields["bases"].split(",")[factor - 1])
    places = [(c, p) for c in range(min(rank, 4)) for p in range(min(length, 64))]
    values = []
    if factor == 1:
        scale = single(1 / single(math.sqrt(length)))
        values += [single(uniform(word(seed, stream, 0, c, 0, p)) * scale) for c, p in places]
    for i in (0, min(k, 64) - 1):
        values += [entry(fields["distribution"], seed, stream, factor, c, i, p, k) for c, p in places]
    return digits(fingerprint(struct.pack(f"<{len(values)}f", *values)))[:16]


def check_adapters(path, weights):
    metadata, tensors = read(path)
    assert metadata["format"] == "nola-adapters" and metadata["format_version"] == "1"
    assert metadata["checksum"] == content_checksum(metadata, tensors), "checksum of the content"
    assert metadata["network"] == weights_fingerprint(weights), "fingerprint of the network"
    paths = [key[len("adapter."):] for key in metadata if key.startswith("adapter.")]
    assert paths
    for name in paths:
        kind, *words = metadata["adapter." + name].split(" ")
        fields = dict(w.split("=") for w in words)
        base = {key[len(name) + 1:]: value for key, value in weights.items() if key.startswith(name + ".")}
        assert fields["base"] == weights_fingerprint(base), f"{name}: fingerprint of the base"
        if kind == "nola":
            assert fields["basis"] == basis_checksum(fields, 1) + "," + basis_checksum(fields, 2), f"{name}: basis"
            for factor, suffix in enumerate("ab"):
                check_coefficients(metadata, tensors, f"{name}.nola_coefficients_{suffix}",
                                   int(fields["bases"].split(",")[factor]))
    return len(paths)


def check_coefficients(metadata, tensors, name, count):
    """write_files sets coefficient i of every factor to i/64 - 1."""
    dtype, shape, raw = tensors[name]
    if dtype == "U8":
        levels = [half - 16 if half > 7 else half for b in raw for half in (b & 15, b >> 4)]
        assert shape == [(count + 1) // 2] and levels[count:] in ([], [0]), name
        values = [float(metadata["scale." + name]) * level for level in levels[:count]]
    else:
        assert shape == [count], name
        values = numbers(tensors[name])
        if dtype == "I8":
            values = [float(metadata["scale." + name]) * level for level in values]
    tolerance = {"F64": 0, "F32": 0, "F16": 0, "I8": 0.01, "U8": 0.15}[dtype]
    assert all(abs(v - (i / 64 - 1)) <= tolerance for i, v in enumerate(values)), f"{name}: values"


# Section "Weights in fewer bits"
NF4 = [-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1]


def frozen_row(form, row, columns, tensors):
    """The numbers of a stored row; a double holds every product and sum here exactly, single rounds it once."""
    levels = tensors["fc.weight"]
    stride = len(levels[2]) // levels[1][0]
    raw = levels[2][row * stride:(row + 1) * stride]
    scales = numbers(tensors["fc.weight.scales"])
    if form == "int8":
        return [single(level * scales[row]) for level in struct.unpack(f"<{columns}b", raw)]
    blocks = stride // 32
    values = []
    for column in range(blocks * 64):
        n, word_index = column % 64 // 8, column % 8
        word32 = struct.unpack_from("<I", raw, column // 64 * 32 + 4 * word_index)[0]
        level = word32 >> 4 * n & 15
        block = row * blocks + column // 64
        if form == "int4":
            values.append(single(scales[2 * block] * level + scales[2 * block + 1]))
        else:
            values.append(single(single(NF4[level]) * scales[block]))
        assert column < columns or level == 0, "padding"
    return values[:columns]


def check_frozen(directory, form):
    metadata, tensors = read(directory / f"frozen_{form}.safetensors")
    assert metadata["format"] == "nola-weights"
    decoded = numbers(read(directory / f"decoded_{form}.safetensors")[1]["weight"])
    dtype, shape, _ = tensors["fc.weight"]
    expected = {"int8": ("I8", [3, 150], "F32", [3]), "int4": ("U8", [3, 96], "F16", [3, 3, 2]),
                "nf4": ("U8", [3, 96], "F16", [3, 3])}
    if form in expected:
        scales = tensors["fc.weight.scales"]
        assert (dtype, shape, *scales[:2]) == expected[form], form
        found = [value for row in range(3) for value in frozen_row(form, row, 150, tensors)]
    else:
        assert (dtype, shape) == (form.upper(), [150, 3]) and "fc.weight.scales" not in tensors, form
        plain = numbers(tensors["fc.weight"])
        found = [plain[3 * column + row] for row in range(3) for column in range(150)]
    assert found == decoded, f"{form}: decoded otherwise"


def main(directory):
    assert digits(fingerprint(text("nola"))) == KNOWN, "fingerprint"
    _, types = read(directory / "types.safetensors")
    expected = {"f64": [0.1, -2.0], "f32": [1.5, -2.0], "f16": [1.5, -2.0], "bf16": [1.5, -2.0], "i8": [-128, 127],
                "u8": [0, 255], "i16": [-32768, 32767], "u16": [0, 65535], "i32": [-2**31, 2**31 - 1],
                "u32": [0, 2**32 - 1], "i64": [-2**63, 2**63 - 1], "u64": [0, 2**64 - 1]}
    assert set(types) == set(expected)
    for name, values in expected.items():
        assert types[name][0].lower() == name and numbers(types[name]) == values, name
    for form in ("f32", "f16", "bf16", "int8", "int4", "nf4"):
        check_frozen(directory, form)
    _, weights = read(directory / "weights.safetensors")
    count = 0
    for path in sorted(directory.glob("adapters*.safetensors")):
        try:
            count += check_adapters(path, weights)
        except AssertionError as error:
            raise AssertionError(f"{path.name}: {error}") from None
    assert count == 2 * 9, f"{count} adapters"
    for kind in ("f32", "f16"):
        _, tensors = read(directory / f"peft_{kind}" / "adapter_model.safetensors")
        assert {t[0].lower() for t in tensors.values()} == {kind}
    print(f"{count} adapters, all number types, six frozen weights and two PEFT files read by the specification alone")


KNOWN = "4687645ad54ac480f62cfe5d669af273"

if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (AssertionError, KeyError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
