"""Scratch memory of functions in C: shared by what is not in use at once, and by nothing else."""

import random
import re

from bettyc.c_arena import arena


def run(lines, blocks, offsets, size):
    """What the statements leave in p: `w` is one memory, blocks lie at their offsets."""
    memory, out = [0.0] * size, []
    for line in lines:
        target, _, source = line.rstrip(";").partition(" = ")
        value = 1.0
        for found in re.finditer(r"w(\d+)\[(\d+)\]", source):
            value += 0.5 * memory[offsets[int(found[1])] + int(found[2])]
        place = re.fullmatch(r"w(\d+)\[(\d+)\]", target)
        if place is None:
            out.append(value)
        else:
            memory[offsets[int(place[1])] + int(place[2])] = value
    return out


def program(seed):
    """Statements that read what was written before."""
    rng = random.Random(seed)
    blocks = {b: rng.choice((1, 2, 16, 48)) for b in range(12)}
    lines, written = [], []
    for block, size in blocks.items():
        for entry in range(min(size, 3)):
            read = rng.sample(written, min(len(written), rng.randrange(3)))
            lines.append(f"w{block}[{entry}] = 1 {' '.join(read)};")
            written = [*written, f"w{block}[{entry}]"][-8:]
        if rng.random() < 0.5:
            lines.append(f"p0[0] = {rng.choice(written)};")
    return lines, blocks


def test_programs_compute_the_same():
    shared = 0
    for seed in range(200):
        lines, blocks = program(seed)
        apart, total = {}, 0
        for block, size in blocks.items():
            apart[block], total = total, total + size
        found = arena(lines, blocks)
        assert run(lines, blocks, found.offsets, found.size) == run(lines, blocks, apart, total)
        shared += total - found.size
    assert shared > 0


def test_a_loop_is_one_statement():
    """What one round leaves is read in the next, after another block was used up."""
    lines = [
        "w0[0] = 1;",
        "for (long i = 0; i < 9; i++) {",
        "w1[0] = w0[0];",
        "w2[0] = w1[0];",
        "}",
        "p0[0] = w2[0];",
    ]
    offsets = arena(lines, {0: 16, 1: 16, 2: 16}).offsets
    assert len(set(offsets.values())) == 3


def test_a_pragma_belongs_to_its_loop():
    lines = [
        "w0[0] = 1;",
        '_Pragma("omp simd")',
        "for (;;) {",
        "w1[0] = w0[0];",
        "}",
        "p0 = w1[0];",
    ]
    assert len(set(arena(lines, {0: 16, 1: 16}).offsets.values())) == 2


def test_memory_is_given_back():
    lines = ["w0[0] = 1;", "w1[0] = w0[0];", "w2[0] = w1[0];", "p0[0] = w2[0];"]
    found = arena(lines, {0: 16, 1: 16, 2: 16})
    assert found.size == 32
    assert found.offsets[0] == found.offsets[2]


def test_without_blocks():
    assert arena(["p0[0] = 1;"], {}).size == 0
