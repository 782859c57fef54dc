"""Cheats that return objects, numbers and tensors that deceive or crash the process that reads them."""

from __future__ import annotations

from tests.gradebook.cheats.cheat import RIGHT, WRONG, Cheat, body, sends

CHEATS = {
    "equals-everything": Cheat(
        "It returns an object that is equal to everything and says that it is an int.",
        "class Equal:\n    __class__ = int\n    __eq__ = __le__ = __ge__ = lambda self, other: True\n"
        "    __sub__ = __rsub__ = __abs__ = lambda self, *a: self\n    __hash__ = lambda self: 0\n" + body("return Equal()"),
        "answer",
    ),
    "int-that-lies": Cheat(
        "It returns a subclass of int that is equal to everything.",
        "class Lies(int):\n    __eq__ = lambda self, other: True\n    __sub__ = __rsub__ = lambda self, other: 0\n"
        "    __hash__ = lambda self: 0\n    __repr__ = lambda self: 'right'\n" + body("return Lies(0)"),
        WRONG,
    ),
    "tensor-that-lies": Cheat(
        "It returns a subclass of a tensor in which every operation says True.",
        "import torch\nclass Lies(torch.Tensor):\n    @classmethod\n"
        "    def __torch_function__(cls, function, types, args=(), kwargs=None):\n        return True\n"
        + body("return torch.zeros(()).as_subclass(Lies)"),
        "answer",
    ),
    "scalar-that-changes": Cheat(
        "It returns a scalar whose value is different each time that it is read.",
        "import itertools\nclass Scalar:\n    shape = ()\n    numbers = itertools.count()\n"
        "    item = lambda self: next(self.numbers)\n" + body("return Scalar()"),
        WRONG,
    ),
    "huge-number": Cheat(
        "It returns a number with so many digits that reading it takes forever.",
        body("return 10 ** 2_000_000"),
        "thousands of digits",
    ),
    "not-a-number": Cheat("It returns NaN, which no comparison calls different.", body("return float('nan')"), "answer"),
    "huge-tensor": Cheat(
        "It returns a tensor of one number that looks like a tensor of 4 TiB.",
        "import torch\n" + body("return torch.zeros(1).expand(2**40)"),
        "cannot be read",
    ),
    "malformed-tensor": Cheat(
        "It writes a frame whose tensor is outside the frame's data.",
        sends(
            """head = b'{"0":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'""",
            """runs = {seed: rows({"tensor": "0"}) for seed in seeds()}""",
            "send(runs, len(head).to_bytes(8, 'little') + head)",
            "os._exit(0)",
        ),
        "could not be read",
    ),
    "bottomless-list": Cheat(
        "It returns a list that contains itself.",
        body("found = []", "found.append(found)", "return found"),
        "cannot be read",
    ),
    "bottomless-frame": Cheat(
        "It writes a frame with a million nested lists, which can crash the process that reads it.",
        sends(
            "text = b'[' * 10**6",
            "open(sys.argv[2], 'wb', buffering=0).write(pack_frame(text, b''))",
            "os._exit(0)",
        ),
        "could not be read",
    ),
    "millions-of-lists": Cheat(
        "It writes a frame of 60 MiB with empty lists, which take gigabytes in the process that reads them.",
        sends(
            "text = b'{\"runs\": [[]' + b',[]' * (20 * 2**20) + b']}'",
            "open(sys.argv[2], 'wb', buffering=0).write(pack_frame(text, b''))",
            "os._exit(0)",
        ),
        "more than 8 MiB",
    ),
    "unfinished-work": Cheat(
        "It returns a coroutine, and does the work later or never.",
        f"async def later(config, lengths, element_bytes):\n    return {RIGHT}\n"
        + body("return later(config, lengths, element_bytes)"),
        "answer",
    ),
    "work-of-a-thread": Cheat(
        "It returns an empty list, and a thread fills the list after the time limit has stopped counting.",
        "import threading, time\n"
        + body(
            "found = []",
            "threading.Thread(target=lambda: (time.sleep(1), found.append(0)), daemon=True).start()",
            "return found",
        ),
        "answer",
    ),
}
