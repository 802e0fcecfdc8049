#!/usr/bin/env python3
"""Writes frame-v1.json: frames of small weights, computed from include/nola/random/frame_specification.md alone.

    python3 make_frame_golden.py > frame-v1.json        (needs numpy)

A weight is given by a rule, so that the file stays small:
  uniform  the entry of the uniform distribution at position i, rank vector j of basis 0 of factor B (seed, stream 0),
           times 2^-(j div 4)
  dead     uniform, and every third row times 2^-130: as good as zero
  lowrank  sum over c < 4 of (word(i, c) mod 7 - 3) * (word(j, 100 + c) mod 7 - 3), words of group 0 of factor B
  signs    +1 or -1 by the parity of popcount(i AND j): all singular values are equal
"""
import json
import struct
import numpy as np

F32, F64 = np.float32, np.float64
MASK = 0xFFFFFFFF


def rounded(x):
    """float(x) of the specification."""
    with np.errstate(under="ignore"):
        return np.where(np.abs(x) < 2.0**-126, F32(0), np.asarray(x).astype(F32))


def philox(counter, key):
    x, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(b >> 32) ^ x[1] ^ k[0], b & MASK, (a >> 32) ^ x[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return x


def word(seed, stream, factor, c, g, p):
    counter = [16 * (p // 64) + p % 16, g, stream, (factor << 24) + c]
    return philox(counter, [seed & MASK, seed >> 32])[(p % 64) // 16]


def uniform(seed, c, p):
    q = word(seed, 0, 2, c, 0, p)
    q = (q - (1 << 32) if q >> 31 else q) >> 8
    return F32((2 * q + 1) * 2.0**-24)


def weight(kind, n, m, seed):
    w = np.zeros((n, m), F32)
    for i in range(n):
        for j in range(m):
            if kind in ("uniform", "dead"):
                w[i, j] = uniform(seed, j, i) * F32(2.0 ** -(j // 4))
                if kind == "dead" and i % 3 == 2:
                    w[i, j] = w[i, j] * F32(2.0**-130)
            elif kind == "lowrank":
                w[i, j] = sum((word(seed, 0, 2, c, 0, i) % 7 - 3) * (word(seed, 0, 2, 100 + c, 0, j) % 7 - 3)
                              for c in range(4))
            else:
                w[i, j] = 1 - 2 * (bin(i & j).count("1") % 2)
    return w


def product(a, b, start=None):
    """a b, the terms of each sum added one after the other in double."""
    sums = np.zeros((a.shape[0], b.shape[1]), F64) if start is None else start.astype(F64)
    for k in range(a.shape[1]):
        sums = sums + a[:, k:k + 1].astype(F64) * b[k:k + 1, :].astype(F64)
    return sums


def dot(a, b):
    total = F64(0)
    for x, y in zip(a.astype(F64), b.astype(F64)):
        total = total + x * y
    return total


def orthonormal(y):
    y = y.copy()
    for first in range(0, y.shape[1], 24):
        last = min(first + 24, y.shape[1])
        given = [dot(y[:, j], y[:, j]) for j in range(first, last)]
        if first > 0:
            for _ in range(2):
                q, block = y[:, :first], y[:, first:last]
                shares = rounded(product(q.T, block))
                y[:, first:last] = rounded(product(q, -shares, block))
        for j in range(first, last):
            for _ in range(2):
                for i in range(first, j):
                    share = F64(rounded(dot(y[:, i], y[:, j])))
                    y[:, j] = rounded(y[:, j].astype(F64) - y[:, i].astype(F64) * share)
            d = dot(y[:, j], y[:, j])
            factor = F64(1) / np.sqrt(d) if d > given[j - first] * F64(2.0**-36) else F64(0)
            y[:, j] = rounded(y[:, j].astype(F64) * factor)
    return y


def eigen(g):
    size = g.shape[0]
    g, v = g.copy(), np.eye(size)
    for _ in range(30):
        done = True
        for i in range(size - 1):
            for j in range(i + 1, size):
                off, f, h = g[i, j], g[i, i], g[j, j]
                if abs(off) <= F64(2.0**-48) * np.sqrt(abs(f * h)):
                    continue
                done = False
                w = (h - f) / (2 * off)
                with np.errstate(over="ignore"):
                    u = 1 / (abs(w) + np.sqrt(w * w + 1))
                u = -u if w < 0 else u
                c = 1 / np.sqrt(u * u + 1)
                s = u * c
                for rows in (g, v):
                    x, y = rows[i].copy(), rows[j].copy()
                    rows[i], rows[j] = c * x - s * y, s * x + c * y
                g[i, i], g[j, j] = f - u * off, h + u * off
                g[i, j] = g[j, i] = 0
                for k in range(size):
                    if k not in (i, j):
                        g[k, i], g[k, j] = g[i, k], g[j, k]
        if done:
            break
    return np.diag(g).copy(), v


def frame(w, p):
    n, m = w.shape
    exponent = int(np.frexp(np.abs(w).max())[1])
    w = rounded(rounded(w) * F32(2.0 ** min(max(-exponent, -126), 126)))
    size = min(p + 16, n, m)
    z = np.zeros((m, size), F32)
    for k in range(m):
        for j in range(size):
            z[k, j] = uniform(0, j, k)
    for _ in range(4):
        y = orthonormal(rounded(product(w, z)))
        z = rounded(product(w.T, y))
    values, vectors = eigen(product(z.T, z))
    order = sorted(range(size), key=lambda i: -values[i])
    least = values[order[0]] * F64(2.0**-40)
    s = [np.sqrt(values[i]) if values[i] > least else F64(0) for i in order[:p]]
    total = F64(0)
    for value in s:
        total = total + value
    a = np.sqrt(F64(p) / total)
    turn = np.zeros((2, size, p), F32)
    for j in range(p):
        if s[j] == 0:
            continue
        q = np.sqrt(s[j])
        turn[0, :, j] = rounded(vectors[order[j]] * (q * a))
        turn[1, :, j] = rounded(vectors[order[j]] * (a / q))
    left, right = rounded(product(y, turn[0])), rounded(product(z, turn[1]))
    for j in range(p):
        if left[np.argmax(np.abs(left[:, j])), j] < 0:
            left[:, j], right[:, j] = -left[:, j], -right[:, j]
    return left, right


def fingerprint(data):
    lanes, multiplier, full = [1, 2, 3, 4], 0x9E3779B97F4A7C15, (1 << 64) - 1
    padded = data + bytes(-len(data) % 32)
    for block in range(0, len(padded), 32):
        for j in range(4):
            lane = (lanes[j] ^ int.from_bytes(padded[block + 8 * j:block + 8 * j + 8], "little")) * multiplier & full
            lanes[j] = (lane ^ (lane >> 29)) * multiplier & full
    key = [len(data) & MASK, len(data) >> 32]
    low, high = [lane & MASK for lane in lanes], [lane >> 32 for lane in lanes]
    x = philox([low[0], high[0], low[1], high[1]], key)
    x = philox([x[0] ^ low[2], x[1] ^ high[2], x[2] ^ low[3], x[3] ^ high[3]], key)
    return "".join(f"{part:08x}" for part in x)


def bits(number):
    return f"{struct.unpack('<I', struct.pack('<f', number))[0]:08x}"


rows = []
for kind, n, m, p, seed in [("uniform", 40, 30, 8, 1), ("uniform", 37, 150, 12, 2), ("uniform", 130, 70, 40, 3),
                            ("uniform", 5, 3, 3, 4), ("lowrank", 50, 60, 10, 5), ("signs", 32, 32, 6, 0),
                            ("dead", 40, 30, 8, 6), ("uniform", 300, 20, 5, 7)]:
    left, right = frame(weight(kind, n, m, seed), p)
    data = left.astype("<f4").tobytes() + right.astype("<f4").tobytes()
    rows.append({"weight": kind, "seed": str(seed), "rows": n, "columns": m, "rank": p,
                 "left": [bits(x) for x in left[-1]], "right": [bits(x) for x in right[-1]],
                 "checksum": fingerprint(data)[:16]})
print("{\"frames\": [\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]}")
