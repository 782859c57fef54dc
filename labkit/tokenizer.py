"""Text to token ids and back, by the `tokenizer.json` of a byte-level BPE (GPT-2's form, which GPT-J uses).

The ids are those of transformers' `tokenizer(text)`: the file's normalizer, added tokens and post-processor (which may put
special tokens around a text) are applied. What the file keeps of the calls that somebody made before it was saved is not:
truncation, padding, and the dropout of a training run, which would cut the same text differently each time.
`tokenizer_config.json` is not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.errors import CheckpointError, InvalidRequest


class Tokenizer:
    """Wraps the `tokenizers` library around one `tokenizer.json`, at `path`.

    content: the text of a `tokenizer.json`, where it was made of other files, of which `path` is one. Raises
    `CheckpointError` when it cannot be read.
    """

    def __init__(self, path: str | Path, content: str | None = None) -> None:
        from tokenizers import Tokenizer as Backend

        self.path = Path(path)
        try:
            self._backend = Backend.from_file(str(path)) if content is None else Backend.from_str(content)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error
        self._backend.no_truncation()
        self._backend.no_padding()
        if getattr(self._backend.model, "dropout", None) is not None:
            self._backend.model.dropout = None
        self._bytes: dict[int, bytes] = {}
        added = self._backend.get_added_tokens_decoder()
        self._special = {token: str(one.content) for token, one in added.items() if one.special}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._backend.get_vocab_size())

    @property
    def highest_ids(self) -> tuple[int, int]:
        """The highest token id without the added tokens, and with them; -1 where there is none."""
        plain, all_tokens = (self._backend.get_vocab(with_added_tokens=added).values() for added in (False, True))
        return max(plain, default=-1), max(all_tokens, default=-1)

    def save(self, path: str | Path) -> None:
        """Write it as a `tokenizer.json`."""
        self._backend.save(str(path))

    @property
    def special_tokens(self) -> Mapping[int, str]:
        """The names of special tokens, `<|endoftext|>` say, by token id; `decode` leaves them out."""
        return self._special

    def encode(self, text: str, *, whole: bool = True) -> list[int]:
        """Token ids of `text`. Raises `InvalidRequest` for anything but a string that UTF-8 can write.

        A whole text gets the special tokens that the file puts around a text; a word or another part of one does not.
        """
        if not isinstance(text, str):
            raise InvalidRequest(f"text to tokenize is {text!r}; a string is accepted")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"the text holds {text[error.start]!r}, half a character that UTF-8 cannot write") from None
        ids: list[int] = self._backend.encode(text, add_special_tokens=whole).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids; special tokens and ids without an entry give none."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes one token stands for, possibly part of a character; none for special or unused ids."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._find_bytes(token_id)
        return known

    def _find_bytes(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        if any(character not in _BYTE_OF for character in token):
            return str(token).encode("utf-8")  # an added token is written as it is
        return bytes(_BYTE_OF[character] for character in token)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: itself where it is printable, else 256, 257, ... in order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    stand_ins = iter(range(256, 512))
    return {chr(byte if byte in printable else next(stand_ins)): byte for byte in range(256)}


_BYTE_OF = _byte_alphabet()
