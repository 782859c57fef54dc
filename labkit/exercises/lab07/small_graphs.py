"""Small graphs for the exercises: GELU, a layer normalization, blocks of GPT-J, and random ones.

A graph is a list of nodes `(name, operator, reads)` in the order in which they run. A node makes one tensor, which has the name
of the node. A tensor that is read but that no node makes is a weight, a constant or an input.
"""

from __future__ import annotations

import random

Node = tuple[str, str, list[str]]

POINTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Tanh", "Where", "Neg")
"""Operators that compute each number of the result from the inputs' numbers at the same place."""
OTHERS = ("MatMul", "ReduceMean", "Softmax", "Transpose", "Concat", "Gather")


def gelu(layer: int) -> list[Node]:
    """A matrix product, a bias, the tanh form of GELU, and the next matrix product."""
    nodes: list[Node] = [
        ("product", "MatMul", ["normed", "weight_in"]),
        ("inner", "Add", ["product", "bias_in"]),
        ("half", "Mul", ["inner", "0.5"]),
        ("cube", "Pow", ["inner", "3"]),
        ("small", "Mul", ["cube", "0.044715"]),
        ("sum", "Add", ["inner", "small"]),
        ("inside", "Mul", ["sum", "0.79788"]),
        ("tanh", "Tanh", ["inside"]),
        ("share", "Add", ["tanh", "1"]),
        ("gelu", "Mul", ["half", "share"]),
        ("outer", "MatMul", ["gelu", "weight_out"]),
    ]
    return renamed(nodes, f"h{layer}.")


def layer_norm(layer: int) -> list[Node]:
    """A layer normalization that computes the square as a tensor times itself."""
    nodes: list[Node] = [
        ("mean", "ReduceMean", ["hidden"]),
        ("centred", "Sub", ["hidden", "mean"]),
        ("square", "Mul", ["centred", "centred"]),
        ("variance", "ReduceMean", ["square"]),
        ("above_0", "Add", ["variance", "epsilon"]),
        ("root", "Sqrt", ["above_0"]),
        ("scaled", "Div", ["centred", "root"]),
        ("weighted", "Mul", ["scaled", "weight"]),
        ("normed", "Add", ["weighted", "bias"]),
        ("query", "MatMul", ["normed", "weight_q"]),
    ]
    return renamed(nodes, f"h{layer}.")


def gptj(layers: int) -> list[Node]:
    """A small GPT-J: an embedding, blocks in which attention and MLP read the same tensor, and the head."""
    nodes: list[Node] = [("hidden_0", "Gather", ["embedding", "input_ids"])]
    for layer in range(layers):
        entered = f"hidden_{layer}"
        block: list[Node] = [
            ("norm", "LayerNorm", [entered, "norm_weight"]),
            ("query", "MatMul", ["norm", "weight_q"]),
            ("key", "MatMul", ["norm", "weight_k"]),
            ("value", "MatMul", ["norm", "weight_v"]),
            ("attended", "Attention", ["query", "key", "value", f"past_{layer}"]),
            ("attention", "MatMul", ["attended", "weight_out"]),
            ("inner", "MatMul", ["norm", "weight_in"]),
            ("gelu", "Gelu", ["inner"]),
            ("mlp", "MatMul", ["gelu", "weight_mlp"]),
            ("both", "Add", ["attention", "mlp"]),
        ]
        nodes += renamed(block, f"h{layer}.")
        nodes.append((f"hidden_{layer + 1}", "Add", [f"h{layer}.both", entered]))
    nodes += [("normed", "LayerNorm", [f"hidden_{layers}", "last_weight"]), ("logits", "MatMul", ["normed", "head"])]
    return nodes


def renamed(nodes: list[Node], prefix: str) -> list[Node]:
    """The same graph with a prefix before the names of its nodes. Tensors that no node makes keep their names."""
    made = {name for name, _, _ in nodes}
    return [(prefix + name, kind, [prefix + read if read in made else read for read in reads]) for name, kind, reads in nodes]


def random_graph(draw: random.Random, size: int) -> list[Node]:
    """A graph with `size` nodes, most of them pointwise. Most tensors that a node reads were made shortly before it."""
    nodes: list[Node] = []
    for number in range(size):
        kind = draw.choice(POINTWISE if draw.random() < 0.75 else OTHERS)
        made = [name for name, _, _ in nodes[-4:]]
        others = ["x", f"weight_{number}"]
        reads = [draw.choice(made or others)]
        if kind not in ("Sqrt", "Tanh", "Neg", "Softmax", "Transpose", "ReduceMean"):
            reads.append(draw.choice(made + others))
        nodes.append((f"t{number}", kind, reads))
    return nodes


def unread(nodes: list[Node]) -> list[str]:
    """The tensors that no node reads: the results of the graph."""
    read = {name for _, _, reads in nodes for name in reads}
    return [name for name, _, _ in nodes if name not in read]


def drawn_sizes(draw: random.Random, nodes: list[Node]) -> dict[str, int]:
    """A random number of bytes for every tensor of a graph, all different."""
    names = list(dict.fromkeys(one for name, _, reads in nodes for one in (*reads, name)))
    return dict(zip(names, (4 * size for size in draw.sample(range(20, 2000), len(names))), strict=True))
