"""TextSettings: what a manifest says of the tokenizer beside what tokenizer.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from canao.errors import InputError

# The input of models that leave out the tokens of a prompt where they pool: 1 for each of them.
PROMPT_MASK = "prompt_mask"
# What is removed from decoded text before it, as Transformers does it.
_CLEANED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class TextSettings(msgspec.Struct, frozen=True):
    """The entry `tokenizer` of a manifest.

    kind                  WordPiece, BPE, Unigram or WordLevel
    tokens                how many tokens it has, with those that were added; None if not known
    file                  the file or files of the model directory that the vocabulary is from
    reader                the class by which Transformers reads these files; "" if not known
    mask                  the token to be filled in, if there is one
    truncation_side       the end of a text that is cut off
    max_tokens            the length that texts are truncated to where that is asked for, if it is
                          less than what the model takes; None if nothing says
    type_ids              whether the model is given the tokenizer's token type ids; else zeros
    split_special_tokens  whether special tokens that stand in a text are split like other text
    clean_up_spaces       whether blanks before punctuation are removed from decoded text
    """

    kind: str
    tokens: int | None = None
    file: str = "tokenizer.json"
    reader: str = ""
    mask: str | None = None
    truncation_side: Literal["right", "left"] = "right"
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    type_ids: bool = True
    split_special_tokens: bool = False
    clean_up_spaces: bool = False

    @classmethod
    def of(cls, manifest: Mapping[str, Any], place: str) -> TextSettings:
        """The settings in a manifest; InputError, which names `place`, if they are not as above."""
        try:
            return msgspec.convert(manifest.get("tokenizer") or {"kind": ""}, cls)
        except msgspec.ValidationError as error:
            raise InputError(f"{place}: 'tokenizer': {error}; compile again") from None

    def to_dict(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)

    def cleaned(self, text: str) -> str:
        """Decoded text as Transformers gives it."""
        if self.clean_up_spaces:
            for found, instead in _CLEANED:
                text = text.replace(found, instead)
        return text
